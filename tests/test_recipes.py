"""The recipes of `docs/recipes.md`, with the real packages: files and commands as they stand on the page."""

import importlib.util
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from support.processes import environment

ROOT = Path(__file__).parents[1]
BEGINNING, *SECTIONS = (ROOT / "docs" / "recipes.md").read_text().split("\n## ")
RECIPES = {section.partition("\n")[0]: section for section in SECTIONS}
FILE = re.compile(r'```\w+ title="(.+?)"\n(.*?)```', re.DOTALL)
COMMANDS = re.compile(r"```console\n(.*?)```", re.DOTALL)


def write_files(recipe):
    """Those of a recipe, to the current folder."""
    for name, content in FILE.findall(BEGINNING + RECIPES[recipe]):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)


@pytest.fixture
def follow(monkeypatch, capfd):
    """Writes the files of a recipe, gives its commands in this process, and returns what was printed."""
    there_before = {*sys.modules}

    def run(recipe):
        write_files(recipe)
        for line in COMMANDS.search(RECIPES[recipe])[1].splitlines():
            words = shlex.split(line)
            _, script, *arguments = words[words.index("python") :]
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(script, run_name="__main__")
        return capfd.readouterr()

    monkeypatch.syspath_prepend("")
    monkeypatch.setenv("PL_TRAINER_ENABLE_PROGRESS_BAR", "False")
    yield run
    for name in {"net", "template"} - there_before:  # other recipes have a file of that name
        sys.modules.pop(name, None)


@pytest.mark.exhaustive
def test_hydra(follow):
    """Optimizer, schedule and scheduler are made of the configuration, and each is given the bounds of its test."""
    follow("Hydra")

    ours, theirs, _, untested = (checkpoint(version) for version in range(4))
    assert ours["lr_schedulers"][0]["max_lr"] == found(ours)
    assert theirs["optimizer_states"][0]["param_groups"][0]["max_lr"] == found(theirs)
    assert untested["lr_schedulers"][0]["max_lr"] == 0.1


def checkpoint(version):
    """The last one of a run."""
    (path,) = Path(f"lightning_logs/version_{version}/checkpoints").glob("*.ckpt")
    return torch.load(path, weights_only=False)


def found(saved):
    """The `max_lr` that the range test has found."""
    return saved["callbacks"]["LRRangeTest"]["result"]["reading"]["bounds"]["max_lr"]


@pytest.mark.exhaustive
def test_command_line(follow):
    """A test alone, one before training, and another optimizer."""
    printed = follow("Lightning's CLI").out

    runs = Path("lightning_logs")
    assert "--model.lr_bounds.base_lr=" in printed
    assert "lr_range_test/max_lr: 0." in (runs / "version_1/hparams.yaml").read_text()
    assert "class_path: torch.optim.AdamW" in (runs / "version_2/config.yaml").read_text()


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_optuna(follow):
    """Each trial measures its own learning rate, and none is pruned for what its range test did."""
    printed = follow("Optuna")

    assert "'max_lr': " in printed.out
    assert printed.err.count("finished with value") >= 2
    assert "pruned at epoch 0" not in printed.err


@pytest.mark.processes
def test_trackers():
    """In a process of its own: MLflow remembers the folders of other tests."""
    write_files("W&B and MLflow, offline")
    offline = environment(WANDB_MODE="offline", MLFLOW_ALLOW_FILE_STORE="true", PL_TRAINER_ENABLE_PROGRESS_BAR="False")
    done = subprocess.run([sys.executable, "track.py"], env=offline, capture_output=True, text=True, timeout=200)

    assert done.returncode == 0, done.stderr[-2000:]
    assert [*Path("wandb").glob("offline-run-*/*.wandb")]
    assert [*Path("mlruns").rglob("lr_range_test.csv")]


@pytest.mark.processes
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed; the recipe was run by hand")
def test_ray():
    """In a process of its own, which starts a cluster; two workers find the same bounds."""
    for name, content in FILE.findall(BEGINNING + RECIPES["Ray Train"]):
        Path(name).write_text(content)

    done = subprocess.run([sys.executable, "ray_train.py"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    found = dict(re.findall(r"rank (\d) of 2: LR range test: (base_lr=\S+ max_lr=\S+)", done.stdout + done.stderr))
    assert found.keys() == {"0", "1"}
    assert len({*found.values()}) == 1


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_notebook(tmp_path):
    """It runs from top to bottom, draws its picture, and is stored with one."""
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    stored = outputs(notebook)

    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    said = [re.search("LR range test: base_lr=.*", text)[0] for text in (stored["text"], outputs(notebook)["text"])]
    assert re.sub(r"[\d.]+", "…", said[0]) == re.sub(r"[\d.]+", "…", said[1]), "but for the numbers"
    assert len(stored["pictures"]) == len(outputs(notebook)["pictures"]) == 1
    assert float(re.search(r"validation accuracy: ([\d.]+)%", outputs(notebook)["text"])[1]) > 90


def outputs(notebook):
    """What the cells of a notebook have printed, and the pictures."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.text for output in shown if output.get("name") == "stdout")
    return {"text": text, "pictures": [output for output in shown if "image/png" in output.get("data", {})]}


def test_page_names_the_versions_that_are_tested():
    """Those in `constraints.txt`."""
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    table = BEGINNING[BEGINNING.index("| recipe") :]

    named = {name: version for name, version in re.findall(r"([\w-]+) (\d[\w.]*\d)", table) if name in pinned}

    assert {"hydra-core", "optuna", "lightning", "ipykernel", "wandb"} <= named.keys()
    assert named == {name: pinned[name] for name in named}
