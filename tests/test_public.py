"""What the package offers, and which way its arrows point."""

import ast
import dataclasses
import importlib.resources
import inspect
import pickle
import re
import sys

import pytest
import torch

import lightning_clr
from lightning_clr import Cyclic, LRBounds, OneCycle, Sweep

ROOM = importlib.resources.files("lightning_clr")
SOURCES = {file.name: file.read_text() for file in ROOM.iterdir() if file.name.endswith(".py")}
MAY_IMPORT = {
    "checks.py": set(),
    "bounds.py": {"checks"},
    "schedules.py": {"bounds", "checks"},
    "curve.py": {"bounds", "checks"},
    "result.py": {"bounds", "curve"},
    "scheduler.py": {"bounds", "checks", "schedules"},
    "packages.py": set(),
    "progress.py": set(),
    "snapshot.py": set(),
    "mixin.py": {"bounds", "checks", "packages", "scheduler", "schedules"},
    "apply.py": {"bounds", "scheduler"},
    "zero.py": {"snapshot"},
    "loggers.py": {"result"},
    "trial.py": {"packages", "snapshot", "zero"},
    "sweep.py": {"apply", "bounds", "checks", "curve", "scheduler", "schedules", "trial", "zero"},
    "range_test.py": {"apply", "checks", "curve", "loggers", "packages", "progress", "result", "snapshot"}
    | {"sweep", "trial", "zero"},
    "cli.py": {"bounds", "loggers", "mixin", "packages", "range_test", "result", "schedules"},
}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "torchmetrics"}
PRIVATE = re.compile(
    r"\b(fit_loop|epoch_loop|val_loop|\w*_connector|_\w*Loop|_combined_loader|_data_fetcher|_data_source|_results"
    r"|_callback_metrics|_logged_metrics|_lightning_optimizers|_TunerExitException|_should_accumulate)\b"
)


def imported(source):
    """Full names of all modules that a source imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names.add(node.module)
    return names


def test_public_names_are_sorted():
    """Where to look for one is no question."""
    assert lightning_clr.__all__ == sorted(lightning_clr.__all__)


def test_public_names_are_complete():
    """What the package's front page defines or imports from its rooms is public, and nothing else."""
    defined = {
        name
        for name, value in vars(lightning_clr).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("lightning_clr")
    }

    assert defined == set(lightning_clr.__all__)


@pytest.mark.parametrize("name", lightning_clr.__all__)
def test_public_name_is_documented(name):
    """A class has an example that is executed; a function tells its arguments and what it returns."""
    documented = inspect.getdoc(getattr(lightning_clr, name))

    if inspect.isclass(getattr(lightning_clr, name)):
        assert "Example:\n    >>> " in documented
    else:
        assert "Args:\n" in documented
        assert "Returns:\n" in documented


@pytest.mark.parametrize("name", lightning_clr.__all__)
def test_every_argument_is_documented(name):
    """By the name it has."""
    public = getattr(lightning_clr, name)
    documented = inspect.getdoc(public)

    arguments = {argument for argument in inspect.signature(public).parameters if argument not in ("args", "kwargs")}

    assert {argument for argument in arguments if not re.search(rf"^    {argument}: ", documented, re.M)} == set()


@pytest.mark.parametrize("name", lightning_clr.__all__)
def test_public_methods_are_documented(name):
    """Those that the class itself adds; Lightning's hooks are among them."""
    members = vars(getattr(lightning_clr, name)) if inspect.isclass(getattr(lightning_clr, name)) else {}

    methods = {method: value for method, value in members.items() if not method.startswith("_") and callable(value)}

    assert [method for method, value in methods.items() if not value.__doc__] == []


def test_type_hints_are_shipped():
    """Type checkers look for this file."""
    assert (ROOM / "py.typed").is_file()


@pytest.mark.parametrize("room", ["schedules.py", "bounds.py", "checks.py", "curve.py"])
def test_mathematics_needs_no_torch(room):
    """Only the standard library, and each other."""
    packages = {name.partition(".")[0] for name in imported(SOURCES[room])}

    assert packages <= {*sys.stdlib_module_names, "lightning_clr"}


@pytest.mark.parametrize(("room", "allowed"), MAY_IMPORT.items(), ids=MAY_IMPORT.keys())
def test_arrows_do_not_turn_round(room, allowed):
    """A room knows only those below it."""
    ours = {name.partition(".")[2] for name in imported(SOURCES[room]) if name.startswith("lightning_clr")}

    assert ours <= allowed


@pytest.mark.parametrize(
    "room",
    ["apply.py", "loggers.py", "progress.py", "result.py", "scheduler.py", "snapshot.py", "zero.py"],
)
def test_room_needs_no_lightning(room):
    """These work with plain torch, or with whatever trainer they are handed."""
    packages = {name.partition(".")[0] for name in imported(SOURCES[room])}

    assert packages & LIGHTNING == set()


@pytest.mark.parametrize("room", sorted(SOURCES.keys() - {"trial.py"}))
def test_private_names_of_lightning_stay_in_one_room(room):
    """An update of Lightning can break `trial.py`, and nothing else."""
    assert PRIVATE.findall(SOURCES[room]) == []


def test_the_room_for_private_names_has_some():
    """The pattern above finds what it is meant to find."""
    assert {"fit_loop", "epoch_loop", "_logger_connector", "_combined_loader", "_data_fetcher"} <= set(
        PRIVATE.findall(SOURCES["trial.py"])
    )


VALUES = [LRBounds(0.1, 1.0), OneCycle(pct_start=0.4), Cyclic(step_size=5), Sweep(mode="linear")]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_configuration_is_a_value(value):
    """Frozen, equal by content, hashable, and the same after pickling and after a safe checkpoint."""
    torch.save(value, "value.ckpt")

    assert pickle.loads(pickle.dumps(value)) == torch.load("value.ckpt", weights_only=True) == value
    assert hash(dataclasses.replace(value)) == hash(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.max_lr = 2.0
