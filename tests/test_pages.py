"""What the pages in `docs` say is still so, and what is drawn from the code is drawn from the code of today."""

import ast
import importlib
import re
from pathlib import Path

import matplotlib
import pytest
import yaml

import lightning_clr
from lightning_clr.reading import Outcome

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTCOMES = (DOCS / "outcomes.md").read_text()

matplotlib.use("Agg")


def messages():
    """All strings of the package, with an ellipsis where a value comes in."""
    for path in Path(lightning_clr.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def first_cells(section):
    """Of the table in a section of the page of outcomes."""
    table = OUTCOMES.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \|", table, re.MULTILINE)
    return [cell for cell in rows if cell not in ("message begins", "message")]


def test_every_outcome_is_on_its_page():
    """In the order of the code."""
    rows = re.findall(r"^\| `([A-Z_]+)` \|", OUTCOMES, re.MULTILINE)

    assert rows == [outcome.name for outcome in Outcome]


@pytest.mark.parametrize(
    "section", ["Skipped", "Errors before the first step", "Errors in the first steps", "Warnings"]
)
def test_messages_on_the_page_are_those_of_the_package(section):
    """As far as they are quoted."""
    text, cells = "\n".join(messages()), first_cells(section)
    quoted = [cell for cell in cells if not cell.startswith(("`` ", "whatever", "out of memory"))]

    parts = [part.strip() for cell in quoted for part in re.split("…|`…`", cell)]

    assert len(quoted) >= 3
    assert [part for part in parts if len(part) > 2 and part not in text] == []


@pytest.mark.exhaustive
def test_shapes_of_the_schedules_are_drawn(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")

    importlib.import_module("shapes").main()

    assert {path.name for path in Path().iterdir()} == {"cyclic.svg", "one_cycle.svg", "sweep.svg"}
    assert all((DOCS / path.name).stat().st_size < 100_000 for path in Path().iterdir())


def test_house_is_drawn_from_the_code(monkeypatch):
    """If not: `python docs/draw_house.py`."""
    monkeypatch.syspath_prepend(DOCS)

    drawn = importlib.import_module("draw_house").draw()

    assert (DOCS / "house.svg").read_text() == drawn
    assert len(drawn) < 100_000


@pytest.mark.parametrize(
    "path",
    ["mkdocs.yml", ".pre-commit-config.yaml", ".github/workflows/ci.yml", *(ROOT / ".github").glob("ISSUE*/*.yml")],
    ids=lambda path: Path(path).name,
)
def test_settings_of_tools_are_yaml(path):
    assert yaml.safe_load((ROOT / path).read_text())


def test_issue_form_asks_for_curve_and_versions():
    """And what it asks for is required."""
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bounds.yml").read_text())

    required = {part["id"] for part in form["body"] if part.get("validations", {}).get("required")}

    assert {"curve", "versions"} <= required
