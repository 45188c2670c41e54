"""Run by every rank of test_faults.py: meets one fault after the other, and writes down what is left afterwards.

Usage: python faults.py FOLDER FAULT...
"""

import hashlib
import json
import os
import signal
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import torch
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader

from lightning_clr import LRBounds, LRRangeTest, RangeTestResult
from support.data import Stream, blobs, loader
from support.exactness import STEPS, digest
from support.models import Scheduled
from support.training import quiet_trainer

RANK = int(os.environ.get("SLURM_PROCID") or os.environ.get("LOCAL_RANK") or 0)
SWEEP = {"min_lr": 1e-3, "max_lr": 10.0, "num_steps": STEPS, "stop_factor": None}  # learns, and then diverges
BATCHES = 5 if RANK else 9
"""Of a stream, which ends earlier on one rank than on the other."""


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


STRIKES = {
    "kill": lambda step: step == 6 and RANK == 1 and send(signal.SIGKILL),
    "terminate": lambda step: step == 7 - RANK and send(signal.SIGTERM),  # one rank is told earlier than the other
    "terminate the first": lambda step: step == 6 and RANK == 0 and send(signal.SIGTERM),
    "interrupt": lambda step: step == 6 and send(signal.SIGINT),
    "requeue": lambda step: step == 7 - RANK and send(signal.SIGUSR1),
}


class Struck(Scheduled):
    """Meets a fault in one of its training steps, the first fourteen of which are the trial's."""

    fault = ""
    steps = 0  # on the class, which no trial undoes

    def training_step(self, batch, batch_idx):
        Struck.steps += 1
        STRIKES.get(self.fault, lambda step: None)(self.steps)
        return super().training_step(batch, batch_idx)


class Terminated(Callback):
    """Meets its fault right after the range test."""

    def on_train_start(self, trainer, pl_module):
        send(signal.SIGTERM)


class Known(LRRangeTest):
    """Applies bounds without a trial."""

    def run(self, trainer, pl_module):
        return RangeTestResult([], [], bounds=LRBounds(*FOUND["uneven"]["bounds"]))


class Left(Callback):
    """Writes down what is there before the range test, and when training has ended in one way or the other."""

    def __init__(self, found):
        self.found = found

    def state(self, trainer, pl_module):
        return [digest([*pl_module.parameters()]), digest(trainer.optimizers[0].state_dict()), trainer.global_step]

    def on_fit_start(self, trainer, pl_module):
        self.found["start"] = self.state(trainer, pl_module)

    def note(self, trainer, pl_module, *_):
        result = trainer.callbacks[0].result
        self.found["left"] = self.state(trainer, pl_module)
        self.found["bounds"] = result and [result.bounds.base_lr, result.bounds.max_lr]
        self.found["steps"] = Struck.steps

    on_train_end = on_exception = note


def train(name: str, *callbacks: Callback, data: DataLoader | None = None, test: type = LRRangeTest, **kwargs) -> None:
    """Train, and write down what is left, and which exception has ended it."""
    seed_everything(3)
    Struck.fault, Struck.steps = name, 0
    FOUND[name] = {"before": files(), "end": None}
    trainer = quiet_trainer(
        devices=2,
        strategy=DDPStrategy(timeout=timedelta(seconds=20)),
        logger=CSVLogger("."),
        log_every_n_steps=1,
        enable_checkpointing=True,
        callbacks=[Left(FOUND[name]), test(**SWEEP), *callbacks],
        max_epochs=2,
        max_steps=kwargs.pop("max_steps", -1),
    )
    try:
        trainer.fit(Struck(), loader(163, shuffle=True) if data is None else data, **kwargs)
    except SystemExit as error:  # SIGTERM and Ctrl-C end in it
        FOUND[name]["end"] = type(error).__name__
    finally:
        FOUND[name]["after"] = files()


def keep(name: str) -> OnExceptionCheckpoint:
    return OnExceptionCheckpoint("checkpoints", name)


def uneven(**kwargs):
    return {"data": DataLoader(Stream(blobs(16 * BATCHES, seed=RANK)), 16), "max_steps": 4, **kwargs}


FOUND = {}
FAULTS = {
    "none": lambda: train("none", ModelCheckpoint("checkpoints")),
    "terminate": lambda: train("terminate", keep("early")),
    "terminate after": lambda: train("terminate after", Terminated(), keep("late")),
    "resume early": lambda: train("resume early", ckpt_path="checkpoints/early.ckpt"),
    "resume late": lambda: train("resume late", ckpt_path="checkpoints/late.ckpt"),
    "uneven": lambda: train("uneven", **uneven()),
    "uneven untested": lambda: train("uneven untested", **uneven(test=Known)),
}


def files() -> dict[str, str]:
    return {str(path): hashlib.sha1(path.read_bytes()).hexdigest() for path in Path().rglob("*") if path.is_file()}


def main(folder, *faults):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background would have ignored
    for name in faults:
        try:
            FAULTS.get(name, lambda name=name: train(name))()
        finally:
            Path(folder, f"{RANK}.json").write_text(json.dumps(FOUND))


if __name__ == "__main__":
    main(*sys.argv[1:])
