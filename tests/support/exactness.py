"""Holds a training after a range test against the same training without one, bit for bit."""

import collections
import functools
import hashlib
import io
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lightning_clr import LRBounds, LRRangeTest, RangeTestResult
from lightning_clr.trial.randomness import rng_state
from support.data import loader
from support.models import Plain
from support.searches import sweep_and_short_runs
from support.training import quiet_trainer

STEPS = 14
"""Length of the range tests here; longer than an epoch in most cases."""
UNLIKE = ("_trainer", "_metric_attributes", "_torchdynamo_wrapper_id", "ds_id")
"""What differs between any two modules."""
NUMBERS = {int, float, bool}
SWEEP = {"min_lr": 1e-4, "max_lr": 1.0, "num_steps": STEPS, "stop_factor": None, "search": sweep_and_short_runs}


@dataclass
class Case:
    """What is trained, on what, how."""

    module: Callable[[], LightningModule] = Plain
    train: Callable[[], Any] = lambda: loader(160, shuffle=True)
    val: Callable[[], Any] | None = lambda: loader(32)
    datamodule: Callable[[], Any] | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: Callable[[], list[Callback]] = list
    test: dict[str, Any] = field(default_factory=dict)


class WithoutTrial(LRRangeTest):
    """Applies a known result without a trial."""

    def run(self, trainer, pl_module):
        return RangeTestResult([0.01, 0.1], [2.0, 1.0], bounds=LRBounds(0.01, 0.1))


class AfterTrial(WithoutTrial):
    """Runs the trial, then applies the known result; a fault of the trial is swallowed."""

    fault: type[BaseException] | float | None = None
    trials = 1
    ran = 0

    def run(self, trainer, pl_module):
        FAULT.arm(self.fault)
        try:
            self.found = [LRRangeTest.run(self, trainer, pl_module) for _ in range(self.trials)]
            self.ran = len(self.found[0].lrs)
        except (MishapError, KeyboardInterrupt):
            self.ran = FAULT.batches
        finally:
            FAULT.disarm()
        return super().run(trainer, pl_module)


class Ends(WithoutTrial):
    """Runs the trial, in which modules that look here fail, then applies the known result."""

    on = False

    def run(self, trainer, pl_module):
        Ends.on = True
        self.found = LRRangeTest.run(self, trainer, pl_module)
        Ends.on = False
        return super().run(trainer, pl_module)


class MishapError(Exception):
    """Raised by a training step in the middle of a trial."""


class Fault:
    """Makes the sixth training step of a trial fail."""

    batches = 0
    kind: type[BaseException] | float | None = None

    def arm(self, kind):
        self.batches, self.kind = 0, kind

    def disarm(self):
        self.kind = None

    def strike(self, loss: Tensor) -> Tensor:
        self.batches += 1
        if self.kind is None or self.batches < 6:
            return loss
        if isinstance(self.kind, float):
            return loss * self.kind
        raise self.kind


FAULT = Fault()


def run(case: Case, test: LRRangeTest) -> list[Any]:
    """Train and return a trace of everything that a range test could have touched."""
    seed_everything(7)
    module = case.module()
    _let_fail(module)
    witness = Witness()
    trainer = quiet_trainer(**{"max_epochs": 2, **case.trainer}, callbacks=[*case.callbacks(), test, witness])
    if case.datamodule is not None:
        trainer.fit(module, datamodule=case.datamodule())
    else:
        trainer.fit(module, case.train(), case.val() if case.val else None)
    return [*witness.trace, ("files", files_in(Path.cwd()))]


def _let_fail(module: LightningModule) -> None:
    """Route every training step through FAULT, without an attribute on the module."""
    kind = type(module)
    step = kind.training_step

    @functools.wraps(step)  # Lightning reads the names of the arguments
    def training_step(self, *args, **kwargs):
        output = step(self, *args, **kwargs)
        if isinstance(output, dict):
            return {**output, "loss": FAULT.strike(output["loss"])}
        return FAULT.strike(torch.zeros(()) if output is None else output)

    module.__class__ = type(kind.__name__, (kind,), {"training_step": training_step, "__module__": kind.__module__})


class Witness(Callback):
    """Writes down, hook by hook, digests of whatever must not differ."""

    def __init__(self):
        self.trace = []

    def note(self, label: str, *values: Any) -> None:
        self.trace.append((label, *map(digest, values)))

    def on_train_start(self, trainer, pl_module):
        self.note(
            "start", pl_module, trainer.callback_metrics, trainer.logged_metrics, rng_state(), trainer.global_step
        )
        self.note("trainer", {name: type(value).__name__ for name, value in vars(trainer).items()})
        self.note("callbacks", [type(callback).__name__ for callback in trainer.callbacks if callback is not self][1:])
        self.note("logging", {k: v for k, v in vars(trainer._logger_connector).items() if k != "trainer"})
        self.note(
            "limits", trainer.accumulate_grad_batches, trainer.max_steps, trainer.should_stop, trainer.state.stage
        )
        for optimizer in trainer.optimizers:
            self.note("optimizer", optimizer, sorted(vars(optimizer)), len(trainer.lr_scheduler_configs))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.note("batch", batch, batch_idx, rng_state(), [p.grad is None for p in pl_module.parameters()])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        lrs = [float(group["lr"]) for optimizer in trainer.optimizers for group in optimizer.param_groups]
        self.note("trained", outputs, trainer.callback_metrics, lrs)

    def on_validation_end(self, trainer, pl_module):
        self.note("validated", trainer.callback_metrics, trainer.global_step)

    def on_train_end(self, trainer, pl_module):
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.note("end", pl_module, scaler and scaler.state_dict(), trainer.current_epoch, rng_state())
        self.note("optimizers", trainer.optimizers)
        self.note("schedulers", [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs])
        if trainer.datamodule is not None:
            self.note("datamodule", {k: v for k, v in vars(trainer.datamodule).items() if isinstance(v, int | list)})


def digest(value: Any) -> str:
    return hashlib.sha1(pickle.dumps(plain(value))).hexdigest()[:12]


@functools.singledispatch
def plain(value: Any) -> Any:
    """Nothing but numbers, strings and containers of these; of other objects the class, and what tests give them."""
    if not type(value).__module__.startswith(("test", "support")):
        return type(value).__name__
    return plain({name: getattr(value, name) for name in getattr(value, "__slots__", None) or vars(value)})


@plain.register
def _(value: Tensor) -> Any:
    if value.is_meta:
        return "meta"
    grad = None if value.grad is None else _whole(value.grad).tolist()
    return "tensor", str(value.dtype), _whole(value).double().reshape(-1).tolist(), value.requires_grad, grad


def _whole(tensor: Tensor) -> Tensor:
    """Of all ranks, whether a layer is gathered or in shards."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@plain.register
def _(value: torch.optim.Optimizer) -> Any:
    return plain([*value.state.values()]), plain(value.param_groups), len(value._optimizer_step_post_hooks)


@plain.register(int | float | bool | None)
def _(value: Any) -> Any:
    return value


@plain.register
def _(value: str) -> Any:
    return value.replace(str(Path.cwd()), ".")


@plain.register
def _(value: np.ndarray) -> Any:
    return value.tolist()


@plain.register
def _(value: nn.Module) -> Any:
    found = {}
    for name, part in vars(value).items():
        if "hooks" in name:  # numbered in the order of their making, which differs between any two runs
            found[name] = list(part.values()) if part else []
        elif name not in UNLIKE and not name.startswith("__"):
            found[name] = part
    return plain(found)


@plain.register
def _(value: dict) -> Any:
    return [(str(key), plain(item)) for key, item in value.items()]


@plain.register(list | tuple | collections.deque)
def _(value: Any) -> Any:
    return [item if type(item) in NUMBERS else plain(item) for item in value]


@plain.register(set | frozenset)
def _(value: Any) -> Any:
    return sorted(map(str, value))


@plain.register
def _(value: torch.Generator) -> Any:
    return value.get_state().tolist()


@plain.register
def _(value: random.Random) -> Any:
    return value.getstate()


@plain.register
def _(value: np.random.Generator) -> Any:
    return plain(value.bit_generator.state)


@plain.register
def _(value: np.random.RandomState) -> Any:
    return plain(value.get_state())


def files_in(folder: Path) -> list[tuple[str, str]]:
    """Names and contents of the files a run has left, without what differs between any two runs."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "tfevents" not in path.name:
            content = path.read_bytes()
            if path.suffix == ".ckpt":
                state = torch.load(io.BytesIO(content), weights_only=True)
                state["callbacks"] = {k: v for k, v in state["callbacks"].items() if "Trial" not in k}
                content = digest(
                    [(key, state[key]) for key in ("state_dict", "optimizer_states", "loops", "callbacks")]
                )
            found.append((str(path.relative_to(folder)), str(content)))
    return found


__all__ = ["STEPS", "SWEEP", "AfterTrial", "Case", "Fault", "MishapError", "Trainer", "WithoutTrial", "run"]
