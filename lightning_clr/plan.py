"""What is to be measured next."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from lightning_clr.curve import Curve
from lightning_clr.settings import Settings


@dataclass(frozen=True)
class SweepPlan:
    """A sweep to be made: the learning rate rises from step to step.

    Args:
        min_lr: That of the first step.
        max_lr: That of the last step.
        num_steps: Length in optimizer steps.
        mode: Whether the learning rate is multiplied or raised by the same amount at each step.
        ends_when: Asked with the curve after each step; the sweep ends if it says so.
        goes_on: Whether the sweep before goes on, with what it has learned and recorded, instead of a new one starting.
    """

    min_lr: float
    max_lr: float
    num_steps: int
    mode: Literal["exponential", "linear"] = "exponential"
    ends_when: Callable[[Curve], bool] | None = field(default=None, compare=False, repr=False)
    goes_on: bool = False

    @classmethod
    def first(cls, settings: Settings) -> "SweepPlan":
        """The sweep that the settings name."""
        return cls(settings.min_lr, settings.max_lr, settings.num_steps, settings.mode)

    def extended(self, max_lr: float) -> "SweepPlan":
        """The same sweep going on at the same pace, up to ``max_lr``."""
        factor = (self.max_lr / self.min_lr) ** (1 / (self.num_steps - 1))
        more = max(0, math.floor(math.log(max_lr / self.max_lr, factor)))
        max_lr = self.max_lr * factor**more
        return replace(self, max_lr=max_lr, num_steps=self.num_steps + more, goes_on=True)
