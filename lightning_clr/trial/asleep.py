"""What sleeps during a trial: callbacks, loggers, the profiler, learning rate schedulers."""

import dataclasses
import sys
from contextlib import nullcontext
from typing import Any

from lightning_clr.lightning import Callback, LightningModule, Trainer, lightning_name, package_of
from lightning_clr.trial.snapshot import Snapshot


def put_to_sleep(snapshot: Snapshot, trainer: Trainer, module: LightningModule, awake: Callback) -> None:
    """Let nobody but one callback notice the steps of a trial, until the end of the snapshot.

    Learning rate schedulers stay awake in manual optimization, where the user's code steps them.
    """
    loggers = [_stand_in(trainer)] if trainer.loggers else []
    snapshot.replace(trainer, callbacks=[awake], loggers=loggers, profiler=_no_profiler(trainer))
    if module.automatic_optimization:
        configs = [dataclasses.replace(config, interval="asleep") for config in trainer.lr_scheduler_configs]
        snapshot.replace(trainer.strategy, lr_scheduler_configs=configs)


def set_up_only(snapshot: Snapshot, trainer: Trainer, first: Callback) -> None:
    """Let a ``fit`` that ends before its first step write and print nothing, until the end of the snapshot.

    Callbacks set up (they may accumulate gradients, or freeze layers), behind ``first``.
    """
    writes = [lightning_name(trainer, "callbacks", name) for name in ("Checkpoint", "ModelSummary")]
    if f"{package_of(trainer)}.cli" in sys.modules:
        writes.append(lightning_name(trainer, "cli", "SaveConfigCallback"))
    callbacks = [callback for callback in trainer.callbacks if not isinstance(callback, tuple(writes))]  # type: ignore[attr-defined]
    loggers = [lightning_name(trainer, "loggers.logger", "DummyLogger")()] if trainer.loggers else []
    snapshot.replace(trainer, callbacks=[first, *callbacks], loggers=loggers, num_sanity_val_steps=0)


def _stand_in(trainer: Trainer) -> Any:
    """A logger that writes nothing, and answers like the trainer's where its files would be."""
    real, dummy = trainer.loggers[0], lightning_name(trainer, "loggers.logger", "DummyLogger")
    names = {name: getattr(real, name, None) for name in ("name", "version", "save_dir", "log_dir")}
    return type("StandIn", (dummy,), names)()


def _no_profiler(trainer: Trainer) -> Any:
    """A profiler that does not even call itself, as the one that passes through does forty times a batch."""
    nothing = nullcontext()
    base = lightning_name(trainer, "profilers", "PassThroughProfiler")
    return type("NoProfiler", (base,), {"profile": lambda self, action_name: nothing})()
