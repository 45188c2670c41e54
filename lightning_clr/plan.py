"""What is to be measured next: a sweep, or a short run."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

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
        return cls(settings.min_lr, settings.max_lr, settings.sweep_steps, settings.mode)

    def extended(self, max_lr: float, most_steps: float = math.inf) -> "SweepPlan":
        """The same sweep going on at the same pace, up to ``max_lr``, or for ``most_steps`` in all."""
        factor = (self.max_lr / self.min_lr) ** (1 / (self.num_steps - 1))
        more = max(0, min(math.floor(math.log(max_lr / self.max_lr, factor)), most_steps - self.num_steps))
        max_lr = self.max_lr * factor**more
        return replace(self, max_lr=max_lr, num_steps=int(self.num_steps + more), goes_on=True)


@dataclass(frozen=True)
class ShortRunPlan:
    """A short training to be made, as the real one will be: from the same weights, on its first batches.

    All short runs of a length see the same batches. What counts are the values of the last steps.

    Args:
        max_lr: The largest learning rate of its 1cycle. With 0 the untrained network meets the batches of the last
            steps alone.
        num_steps: Length in optimizer steps.
        num_judged: How many steps at the end count.
        falls: Whether the learning rate falls again after its rise, as in 1cycle. Otherwise it rises for a quarter of
            the steps, and stays.
    """

    max_lr: float
    num_steps: int
    num_judged: int
    falls: bool = True

    @property
    def num_skipped(self) -> int:
        """Steps whose batches are left out."""
        return 0 if self.max_lr else max(0, self.num_steps - self.num_judged)


Plan: TypeAlias = SweepPlan | ShortRunPlan
