"""What is shipped: the wheel works in an environment of its own, and costs little to import."""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMOKE = """
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.demos.boring_classes import BoringModel
import lightning_clr

torch.manual_seed(0)
result = lightning_clr.lr_range_test(Trainer(max_epochs=1, logger=False, enable_checkpointing=False), BoringModel())
print(lightning_clr.__file__, result.summary(), sep="\\n")
"""
IMPORTED = """
import sys, pytorch_lightning
before = {*sys.modules}
import lightning_clr
print(*{*sys.modules} - before, sep="\\n")
"""


def run(*arguments, **kwargs):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, **kwargs).stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder with wheel and source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    return folder


@pytest.mark.processes
def test_wheel_runs_where_nothing_else_of_the_project_is(dist, tmp_path):
    run("-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), str(next(dist.glob("*.whl"))))

    file, summary = run("-c", SMOKE, env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path).splitlines()[-2:]

    assert Path(file).parent == tmp_path / "lightning_clr"
    assert summary.startswith("LR range test: base_lr=")


@pytest.mark.processes
def test_what_is_shipped(dist):
    """The wheel has the package alone, with its type hints; the source distribution what its tests need, too."""
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")

    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    in_wheel = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert in_wheel == {"lightning_clr", f"lightning_clr-{importlib.metadata.version('lightning-clr')}.dist-info"}
    assert "lightning_clr/py.typed" in zipfile.ZipFile(wheel).namelist()
    assert {"tests/support/models.py", "examples/train.yaml", "docs/callbacks.md"} <= names
    assert {"constraints.txt", "README.md", "LICENSE", "CONTRIBUTING.md", "mkdocs.yml"} <= names
    assert {".pre-commit-config.yaml", ".github/ISSUE_TEMPLATE/bounds.yml"} <= names


def test_metadata():
    """What an index shows, and searches by."""
    metadata = importlib.metadata.metadata("lightning-clr")

    assert {"plot", "cli", "examples"} == set(metadata.get_all("Provides-Extra"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    assert any("arxiv.org/abs/1506.01186" in url for url in metadata.get_all("Project-URL"))
    assert "Typing :: Typed" in metadata.get_all("Classifier")


@pytest.mark.processes
def test_import_brings_no_second_lightning_and_nothing_for_pictures_or_command_lines():
    """Which take longer to import than all of ours."""
    imported = run("-c", IMPORTED).splitlines()

    ours = {name for name in imported if name.startswith("lightning_clr")}
    assert "lightning_clr.cli" in ours
    assert {name.partition(".")[0] for name in imported} & {"lightning", "jsonargparse", "matplotlib", "wandb"} == set()
