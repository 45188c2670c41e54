"""What the package offers, and which way its arrows point."""

import ast
import dataclasses
import inspect
import pickle
import re
import sys
from pathlib import Path

import pytest
import torch

import lightning_clr
from lightning_clr import Cyclic, LRBounds, OneCycle, Sweep

ROOM = Path(lightning_clr.__file__).parent
SOURCES = {str(path.relative_to(ROOM)): path.read_text() for path in sorted(ROOM.rglob("*.py"))}
MAY_IMPORT = {
    "checks.py": set(),
    "bounds.py": {"checks"},
    "schedules.py": {"bounds", "checks"},
    "settings.py": {"checks"},
    "curve.py": {"checks"},
    "divergence.py": {"curve"},
    "valley.py": {"curve", "settings"},
    "roughness.py": {"curve", "settings"},
    "reading.py": {"bounds", "curve", "roughness", "settings", "valley"},
    "plan.py": {"curve", "settings"},
    "second_sweep.py": {"bounds", "curve", "plan", "reading", "roughness", "settings", "valley"},
    "short_runs.py": set(),
    "budget.py": {"settings"},
    "search.py": {"bounds", "budget", "curve", "plan", "reading", "roughness", "second_sweep", "settings"}
    | {"short_runs", "valley"},
    "picture.py": {"curve", "reading", "short_runs", "valley"},
    "result.py": {"bounds", "curve", "picture", "reading", "short_runs", "valley"},
    "files.py": {"result"},
    "loggers.py": {"files", "result"},
    "scheduler.py": {"bounds", "checks", "schedules"},
    "apply.py": {"bounds", "scheduler"},
    "hyperparameters.py": {"bounds"},
    "lightning.py": set(),
    "steps.py": {"lightning"},
    "progress.py": {"lightning"},
    "trial/__init__.py": set(),
    "trial/containers.py": set(),
    "trial/randomness.py": set(),
    "trial/tensors.py": set(),
    "trial/kinds.py": {"trial.containers", "trial.tensors"},
    "trial/snapshot.py": {"trial.containers", "trial.kinds", "trial.randomness", "trial.tensors"},
    "trial/private.py": {"lightning"},
    "trial/signals.py": {"lightning"},
    "trial/votes.py": {"lightning"},
    "trial/processes.py": {"lightning", "trial.private", "trial.snapshot"},
    "trial/silent.py": set(),
    "trial/asleep.py": {"lightning", "trial.silent", "trial.snapshot"},
    "trial/replay.py": {"trial.randomness"},
    "trial/data.py": {"lightning", "trial.replay", "trial.snapshot"},
    "trial/ddp.py": set(),
    "trial/deepspeed.py": {"lightning", "trial.snapshot"},
    "trial/fsdp.py": set(),
    "trial/loop.py": {"checks", "lightning", "trial.asleep", "trial.data", "trial.ddp", "trial.deepspeed"}
    | {"trial.fsdp", "trial.private", "trial.signals", "trial.snapshot"},
    "recorder.py": {"apply", "bounds", "checks", "curve", "divergence", "lightning", "plan", "scheduler", "schedules"}
    | {"settings", "short_runs", "steps", "trial.deepspeed", "trial.loop", "trial.signals", "trial.votes"},
    "configure.py": {"bounds", "checks", "lightning", "scheduler", "schedules", "steps", "trial.private"},
    "mixin.py": {"bounds", "checks", "configure", "schedules"},
    "range_test.py": {"apply", "bounds", "checks", "curve", "hyperparameters", "lightning", "loggers", "plan"}
    | {
        "progress",
        "reading",
        "recorder",
        "result",
        "scheduler",
        "search",
        "settings",
        "short_runs",
        "trial.asleep",
        "trial.loop",
    }
    | {"trial.private", "trial.processes", "trial.signals", "trial.snapshot"},
    "cli.py": {"bounds", "configure", "files", "lightning", "mixin", "range_test", "result", "schedules"},
}
PURE = ["bounds", "budget", "checks", "curve", "divergence", "plan", "reading", "roughness", "schedules", "search"]
PURE += ["second_sweep", "settings", "short_runs", "valley"]
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


@pytest.mark.parametrize("room", PURE)
def test_mathematics_needs_no_torch(room):
    """Only the standard library, and each other."""
    packages = {name.partition(".")[0] for name in imported(SOURCES[f"{room}.py"])}

    assert packages <= {*sys.stdlib_module_names, "lightning_clr"}


@pytest.mark.parametrize(("room", "allowed"), MAY_IMPORT.items(), ids=MAY_IMPORT.keys())
def test_arrows_do_not_turn_round(room, allowed):
    """A room knows only those below it."""
    ours = {name.partition(".")[2] for name in imported(SOURCES[room]) if name.startswith("lightning_clr")}

    assert ours <= allowed


@pytest.mark.parametrize(
    "room",
    [
        "apply.py",
        "files.py",
        "loggers.py",
        "picture.py",
        "result.py",
        "scheduler.py",
        "trial/containers.py",
        "trial/tensors.py",
    ],
)
def test_room_needs_no_lightning(room):
    """These work with plain torch, or with whatever trainer they are handed."""
    packages = {name.partition(".")[0] for name in imported(SOURCES[room])}

    assert packages & LIGHTNING == set()


IN_THE_TRIAL = {room for room in SOURCES if room.startswith("trial/")}


def test_every_room_has_its_arrows():
    """A new file is placed in the house before it is built."""
    assert SOURCES.keys() - {"__init__.py"} == MAY_IMPORT.keys()


@pytest.mark.parametrize("room", sorted(SOURCES.keys() - IN_THE_TRIAL))
def test_private_names_of_lightning_stay_in_the_trial(room):
    """An update of Lightning can break the rooms in `trial/`, and nothing else."""
    assert PRIVATE.findall(SOURCES[room]) == []


def test_the_rooms_for_private_names_have_some():
    """The pattern above finds what it is meant to find."""
    found = {name for room in IN_THE_TRIAL for name in PRIVATE.findall(SOURCES[room])}

    assert {"fit_loop", "epoch_loop", "_logger_connector", "_combined_loader", "_data_fetcher"} <= found


@pytest.mark.parametrize("room", sorted(SOURCES))
def test_no_code_looks_into_a_sentence(room):
    """Reasons and summaries are for people; code asks for the outcome."""
    assert re.findall(r"(?:reason|summary\(\))\.\w+\(|in \w*\.?reason\b", SOURCES[room]) == []


VALUES = [LRBounds(0.1, 1.0), OneCycle(pct_start=0.4), Cyclic(step_size=5), Sweep(mode="linear")]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_configuration_is_a_value(value):
    """Frozen, equal by content, hashable, and the same after pickling and after a safe checkpoint."""
    torch.save(value, "value.ckpt")

    assert pickle.loads(pickle.dumps(value)) == torch.load("value.ckpt", weights_only=True) == value
    assert hash(dataclasses.replace(value)) == hash(value)
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.max_lr = 2.0
