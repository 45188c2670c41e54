"""The two numbers a range test finds and a schedule moves between."""

import math
from dataclasses import dataclass

from lightning_clr.checks import Frozen, require


@dataclass(frozen=True)
class LRBounds(metaclass=Frozen):
    """Lower and upper learning rate of a cycle (Smith 2017, https://arxiv.org/abs/1506.01186, section 3).

    With several parameter groups these are the bounds of the group with the largest learning rate; every other group
    keeps its ratio to it.

    Args:
        base_lr: Lower bound, positive and finite.
        max_lr: Upper bound, at least ``base_lr``.

    Raises:
        ValueError: If a bound is not positive and finite, or if the two are in the wrong order.

    Example:
        >>> LRBounds(base_lr=0.001, max_lr=0.006)
        LRBounds(base_lr=0.001, max_lr=0.006)
        >>> LRBounds(0.1, 0.01)
        Traceback (most recent call last):
        ...
        ValueError: `base_lr` must be at most `max_lr` (0.01), got 0.1. Swap the two bounds.
    """

    base_lr: float
    max_lr: float

    def __post_init__(self) -> None:
        for name in ("base_lr", "max_lr"):
            value = getattr(self, name)
            require(
                name, value, "be a positive, finite learning rate", lambda lr: 0 < lr < math.inf, "Try 0.001 and 0.1."
            )
            object.__setattr__(self, name, float(value))  # a tensor or NumPy scalar would not load under weights_only
        require(
            "base_lr",
            self.base_lr,
            f"be at most `max_lr` ({self.max_lr})",
            lambda lr: lr <= self.max_lr,
            "Swap the two bounds.",
        )
