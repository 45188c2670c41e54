"""The settings of a range test, shared by the callback, the function, the command line, the search and the recorder."""

import math
from dataclasses import dataclass
from typing import Literal

from lightning_clr.checks import require

FEWEST_POINTS = 10
"""Recorded values that a reading needs: half of them tell the untrained level, and its median needs some five."""

USUAL_STEPS = 100
"""Length of a sweep that has as long as it needs. Smith's run over epochs, fastai's are as long."""


@dataclass(frozen=True)
class Settings:
    """What is measured, and how; :class:`~lightning_clr.LRRangeTest` says what each setting means.

    ``training_steps`` is how long the training will be that follows, in optimizer steps; ``None`` if nobody knows.

    Raises:
        ValueError: If a setting is outside its range.
        TypeError: If it is of another type.
    """

    min_lr: float = 1e-6
    max_lr: float = 10.0
    num_steps: int | None = None
    mode: Literal["exponential", "linear"] = "exponential"
    monitor: str | None = None
    monitor_mode: Literal["min", "max"] = "min"
    stop_factor: float | None = 4.0
    val_every_n_steps: int = 5
    closer_look: bool = True
    budget: int | None = None
    training_steps: int | None = None

    def __post_init__(self) -> None:
        for name, lr in (("min_lr", self.min_lr), ("max_lr", self.max_lr)):
            require(name, lr, "be a positive, finite learning rate", lambda value: 0 < value < math.inf)
        below = f"be below `max_lr` ({self.max_lr})"
        require("min_lr", self.min_lr, below, lambda value: value < self.max_lr, "Swap the two.")
        for name, steps in (("num_steps", self.num_steps), ("budget", self.budget)):
            rule = f"be a whole number of at least {FEWEST_POINTS}"
            if steps is not None:
                require(name, steps, rule, lambda n: n >= FEWEST_POINTS and n == int(n), "A hundred steps are usual.")
        require("mode", self.mode, 'be "exponential" or "linear"', lambda value: value in ("exponential", "linear"))
        if self.monitor is not None:
            rule = "be the name of a logged metric"
            require("monitor", self.monitor, rule, lambda name: isinstance(name, str), error=TypeError)
            require("monitor", self.monitor, rule, len)
        require("monitor_mode", self.monitor_mode, 'be "min" or "max"', lambda value: value in ("min", "max"))
        if self.stop_factor is not None:
            require("stop_factor", self.stop_factor, "be above 1", lambda factor: factor > 1, "Use None to never stop.")
        rule = "be a whole number of at least 1"
        require("val_every_n_steps", self.val_every_n_steps, rule, lambda n: n >= 1 and n == int(n))

    @property
    def sweep_steps(self) -> int:
        """Length of a sweep, where nothing else decides."""
        return USUAL_STEPS if self.num_steps is None else self.num_steps

    @property
    def monitored(self) -> str:
        """The name of what is recorded."""
        return self.monitor or "train loss"
