"""The code that users read runs."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from models import Plain, loader

ROOT = Path(__file__).parents[1]

matplotlib.use("Agg")


@pytest.fixture
def quiet(monkeypatch):
    """Trainers that readers configure as they like stay quiet here."""
    for name, value in {"LOGGER": "False", "ENABLE_PROGRESS_BAR": "False", "ENABLE_CHECKPOINTING": "False"}.items():
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)


@pytest.mark.usefixtures("quiet")
def test_readme_code_runs(tmp_path, capsys, monkeypatch):
    """Block after block, with the model and the data of the reader."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {"model": Plain(), "train_dataloaders": loader(), "val_dataloaders": loader(64)}

    for block in blocks:
        monkeypatch.setenv("PL_TRAINER_ENABLE_CHECKPOINTING", str("ModelCheckpoint" in block))
        exec(compile(block, "README.md", "exec"), names)

    assert len(blocks) >= 4
    assert "LR range test: base_lr=" in capsys.readouterr().out
    assert (tmp_path / "curve.csv").exists()


def command_lines():
    """Those of the README."""
    block = (ROOT / "README.md").read_text().partition("<!-- command line -->\n```console\n")[2].partition("```")[0]
    return block.splitlines()


@pytest.mark.parametrize("line", command_lines())
def test_readme_commands_run(line, tmp_path):
    """As they are written, on a few batches."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    few = "--trainer.max_epochs=1 --trainer.limit_train_batches=15 --trainer.accelerator=cpu"
    python = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}

    done = subprocess.run(
        f"{line} {few}", shell=True, env=os.environ | python, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    if "range_test" in line:
        written = (path for path in tmp_path.rglob("*") if path.name == "bounds.json")
        assert "base_lr" in done.stdout + "".join(path.read_text() for path in written)


@pytest.mark.usefixtures("quiet")
def test_digits_example_runs(tmp_path, capsys):
    """Real data, a range test, 1cycle, and two pictures."""
    runpy.run_path(str(ROOT / "examples" / "digits.py"))["main"](max_epochs=4)

    printed = capsys.readouterr().out
    ours, default = (float(percent) for percent in re.findall(r"([\d.]+)%", printed))
    assert "LR range test: base_lr=" in printed
    assert ours > 90 > default
    assert {path.name for path in tmp_path.iterdir()} == {"range_test.png", "schedule.png"}
