"""Hyper-parameters: ours among them, and what is told of the bounds in those of others."""

import copy
import dataclasses
import pickle
from functools import partial
from pathlib import Path

import pytest
import torch
import wandb
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from lightning_clr import Cyclic, LRBounds, LRRangeTest, OneCycle, RangeTestResult, Schedule, Sweep
from lightning_clr.hyperparameters import update_hyperparameters
from support.data import loader
from support.models import Plain, Scheduled
from support.training import quiet_trainer

FOUND = LRBounds(0.02, 0.3)


class Known(LRRangeTest):
    """Needs no steps to find the bounds."""

    def run(self, trainer, pl_module):
        return RangeTestResult([0.01, 0.1], [2.0, 1.0], bounds=FOUND)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(OneCycle):
    """A user's own, derived from ours."""

    warm: float = 0.5


@dataclasses.dataclass(frozen=True)
class Flat(Schedule):
    """A user's own, from scratch."""

    share: float = 0.5

    def lr(self, step, total_steps, bounds):
        return bounds.max_lr * self.share


class Saves(Scheduled):
    def __init__(self, schedule=None, lr_bounds=None, nested=None):
        super().__init__(schedule=schedule, lr_bounds=lr_bounds)
        self.save_hyperparameters()


LOGGERS = {
    "TensorBoard": lambda: TensorBoardLogger(Path("logs").absolute()),
    "CSV": lambda: CSVLogger(Path("logs").absolute()),
    "MLflow": lambda: MLFlowLogger(save_dir=Path("logs").absolute() / "mlruns"),
    "W&B": lambda: WandbLogger(save_dir=Path("logs").absolute(), offline=True),
}


@pytest.fixture(autouse=True)
def _logs(monkeypatch):
    """A folder, and no run of wandb that outlasts its logger."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path("logs").mkdir()
    yield
    wandb.finish()


VALUES = [LRBounds(0.01, 0.1), OneCycle(), Cyclic(scale_fn=abs), Sweep(mode="linear"), Mine(), Flat()]


@pytest.mark.exhaustive
@pytest.mark.parametrize("tested", [False, True], ids=["without test", "with test"])
@pytest.mark.parametrize("make_logger", LOGGERS.values(), ids=LOGGERS.keys())
@pytest.mark.filterwarnings("ignore:.*still shows the old.*", "ignore::DeprecationWarning")
def test_schedules_and_bounds_pass_where_omegaconf_is_installed(make_logger, tested):
    """Lightning then copies hyper-parameters field by field before it writes `hparams.yaml`."""
    module = Saves(Mine(), LRBounds(0.01, 0.1), nested={"all": [*VALUES]})

    trainer = quiet_trainer(max_epochs=1, logger=make_logger(), callbacks=[Known()] if tested else [])
    trainer.fit(module, loader())

    assert trainer.global_step == 16
    assert module.hparams.nested == {"all": VALUES}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_may_be_assigned_only_what_they_hold(value):
    """Copies are equal and hash alike; another value, or a new attribute, is refused."""
    first = dataclasses.fields(value)[0].name
    setattr(value, first, getattr(value, first))

    for other in (copy.deepcopy(value), pickle.loads(pickle.dumps(value)), dataclasses.replace(value)):
        assert (other, hash(other)) == (value, hash(value))
    for name in (first, "invented"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, 0.77)
    assert 0.77 not in vars(value).values()


# --- what is replaced, and what is not --------------------------------------------------------------------------------


def config(value, **flags):
    made = OmegaConf.create({"lr": value, "optim": {"lr": 0.1}})
    for name, flag in flags.items():
        getattr(OmegaConf, f"set_{name}")(made, flag)
    return made


@dataclasses.dataclass
class Typed:
    lr: int = 1


class Clamps(dict):
    def __setitem__(self, name, value):
        super().__setitem__(name, min(value, 0.2))


class Exits(dict):
    def __setitem__(self, name, value):
        raise SystemExit("not here")


class OfHparams:
    """Whatever `hparams` are, as attributes of a module."""

    def __init__(self, hparams):
        self.hparams = hparams


REPLACED = {
    "dict": {"lr": 0.1},
    "None": {"lr": None},
    "whole number": {"lr": 1},
    "struct": config(0.1, struct=True),
    "typed as float": OmegaConf.structured(dataclasses.make_dataclass("Floats", [("lr", float, 0.1)])),
}
LEFT = {
    "list": {"lr": [0.1, 0.2]},
    "parts": {"lr": {"body": 0.1, "head": 0.2}},
    "string": {"lr": "auto"},
    "flag": {"lr": True},
    "tensor": {"lr": torch.tensor(0.1)},
    "read-only": config(0.1, readonly=True),
    "interpolated": config("${optim.lr}"),
    "omegaconf list": config([0.1, 0.2]),
    "typed as int": OmegaConf.structured(Typed),
    "clamped": Clamps(lr=0.1),
    "exits": Exits(lr=0.1),
}


@pytest.mark.parametrize("hparams", REPLACED.values(), ids=REPLACED.keys())
def test_number_is_replaced(hparams):
    """Whatever holds it."""
    told = update_hyperparameters(OfHparams(hparams), FOUND, 0.3)

    assert (hparams["lr"], told.is_known, told.left, [*told.changed]) == (0.3, True, [], ["lr"])


@pytest.mark.parametrize("hparams", LEFT.values(), ids=LEFT.keys())
def test_anything_else_is_left(hparams):
    """As it was, and named."""
    before, kind = copy.deepcopy(hparams["lr"]), type(hparams["lr"])
    was_computed = isinstance(hparams, DictConfig) and OmegaConf.is_interpolation(hparams, "lr")

    told = update_hyperparameters(OfHparams(hparams), FOUND, 0.3)

    assert (hparams["lr"], type(hparams["lr"])) == (before, kind)
    assert (told.changed, told.is_known) == ({}, False)
    assert told.left[0].startswith("the hyper-parameter `lr` (")
    assert not isinstance(hparams, DictConfig) or OmegaConf.is_interpolation(hparams, "lr") == was_computed


class Fixed(Plain):
    lr = property(lambda self: 0.1)


class Slot(Plain):
    __slots__ = ("learning_rate",)


def test_attributes_are_treated_alike():
    """A property without a setter is left, a slot is filled, a list is left, a method is nobody's learning rate."""
    slot, listed = Slot(), Plain()
    slot.learning_rate, listed.lr, listed.learning_rate = None, [0.1, 0.2], lambda: 0.1

    assert update_hyperparameters(Fixed(), FOUND, 0.3).left == ["the attribute `lr` (0.1)"]
    assert update_hyperparameters(slot, FOUND, 0.3).left == []
    assert update_hyperparameters(listed, FOUND, 0.3).left == ["the attribute `lr` ([0.1, 0.2])"]
    assert (slot.learning_rate, listed.lr) == (0.3, [0.1, 0.2])


class Given(Plain):
    def __init__(self, **kwargs):
        super().__init__()
        self.save_hyperparameters(kwargs)


@pytest.mark.parametrize(
    "given",
    [{"lr": [0.1, 0.2]}, {"optim": {"lr": 0.1}}, {"optimizer": partial(torch.optim.SGD, lr=0.1)}],
    ids=["list", "nested", "partial"],
)
def test_what_does_not_tell_the_rate_in_force_is_said_once(given, recwarn):
    """With the number; training goes on and the checkpoint loads as before."""
    trainer = quiet_trainer(max_epochs=1, callbacks=[Known()])

    trainer.fit(module := Given(**given), loader())
    trainer.save_checkpoint("net.ckpt")

    assert len([one for one in recwarn if "The test has set 0.15." in str(one.message)]) == 1
    assert dict(module.hparams).keys() == given.keys()
    assert Given.load_from_checkpoint("net.ckpt", weights_only=False).hparams.keys() == given.keys()


class Strict(Logger):
    """Lets no parameter change, as MLflow does."""

    name, version = "strict", 0

    def __init__(self, error):
        super().__init__()
        self.params, self.error = {}, error

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        params = dict(params)
        if any(self.params.get(name, value) != value for name, value in params.items()):
            raise self.error("no parameter may change")
        self.params |= params


class LogsAgain(Plain):
    def __init__(self, lr=0.1):
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr

    def on_train_start(self):
        self.logger.log_hyperparams(self.hparams)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_tracker_that_refuses_changes_is_not_met_again(error, recwarn):
    """The hyper-parameters are left as they are, so that the user's own logging goes on; the module knows the rate."""
    trainer = quiet_trainer(max_epochs=1, logger=Strict(error), callbacks=[Known()])

    trainer.fit(module := LogsAgain(), loader())

    assert (trainer.global_step, module.hparams.lr, module.lr) == (16, 0.1, FOUND.max_lr / 2)
    assert len([one for one in recwarn if "Strict still shows the old lr" in str(one.message)]) == 1


def test_mlflow_that_refuses_changes_is_not_met_again():
    """The same with the real one."""
    trainer = quiet_trainer(max_epochs=1, logger=LOGGERS["MLflow"](), callbacks=[Known()])

    with pytest.warns(UserWarning, match=r"MLFlowLogger still shows the old lr.*The test has set 0\.15"):
        trainer.fit(module := LogsAgain(), loader())

    assert (trainer.global_step, module.hparams.lr) == (16, 0.1)


def test_interrupt_is_nobodys_refusal():
    """Whoever presses Ctrl+C while a tracker is written wants the job to end."""
    trainer = quiet_trainer(max_epochs=1, logger=Strict(KeyboardInterrupt), callbacks=[Known()])

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(LogsAgain(), loader())
