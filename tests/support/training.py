"""A trainer that is quiet, and a callback that notes learning rates."""

import math
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from support.data import loader


def quiet_trainer(trainer_class: type = Trainer, **kwargs) -> Trainer:
    """A trainer on the CPU that writes and prints nothing."""
    silent = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return trainer_class(**{**silent, **kwargs})


class LRs(Callback):
    """Notes the learning rates right before each optimizer step; ends training after a number of steps.

    Attributes:
        of_groups: Those of all parameter groups, step by step.
    """

    def __init__(self, stop_after: float = math.inf):
        self.of_groups: list[list[float]] = []
        self.stop_after = stop_after

    @property
    def seen(self) -> list[float]:
        """Those of the first group."""
        return [lrs[0] for lrs in self.of_groups]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.of_groups.append([float(group["lr"]) for group in optimizer.param_groups])
        if len(self.of_groups) >= self.stop_after:
            trainer.should_stop = True


def trained(module: LightningModule, data: Any = None, callbacks: tuple[Callback, ...] = (), **arguments) -> LRs:
    """The learning rates of a training."""
    lrs = LRs()
    quiet_trainer(callbacks=[*callbacks, lrs], **arguments).fit(module, loader() if data is None else data)
    return lrs
