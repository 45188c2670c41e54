"""A recorded curve, and its smoothing. What is drawn, logged and written to files is what is read."""

import itertools
import math
import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from lightning_clr.checks import require

_DECADES = 0.4
"""Standard deviation of the average, in decades of the learning rate: chosen on the benchmark's ``dev`` tasks."""
_WIDEST = 0.06
"""The same as a fraction of the sweep, where a step is much less than a decade: linear sweeps and slow second ones."""
_CAP = 0.5
"""Height above the untrained level, in units of the deepest fall below it, beyond which values count the same.

An explosion draws the average towards small learning rates, but only so far.
"""
NORMAL_OVER_MAD = 1.4826
"""Standard deviation of normal noise over its median absolute deviation: the inverse of the normal's upper quartile."""


@dataclass(frozen=True)
class Curve:
    """What one sweep has recorded.

    Args:
        lrs: Learning rate of each recorded step, positive and rising, ``[n]``.
        values: The monitored value at each of them, ``[n]``; the last may be NaN or infinite.
        monitor_mode: Whether lower (``"min"``) or higher (``"max"``) values are better.
        mode: Whether the learning rate was multiplied (``"exponential"``) or raised (``"linear"``) at each step.
        validated: Whether each value took a validation run, so that there is none for most steps.
        ended_by: What kept the last step from giving a value, which is NaN then; empty if nothing did.
        num_steps: How many optimizer steps were made; by default one for each value.

    Raises:
        ValueError: If the learning rates do not rise, or are not as many as the values.

    Example:
        >>> curve = Curve([0.1, 0.2, 0.4], [2.0, 1.0, float("nan")])
        >>> curve.losses, [round(value, 2) for value in curve.smoothed()]
        ([2.0, 1.0], [1.35, 1.21])
    """

    lrs: Sequence[float]
    values: Sequence[float]
    monitor_mode: Literal["min", "max"] = "min"
    mode: Literal["exponential", "linear"] = "exponential"
    validated: bool = False
    ended_by: str = ""
    num_steps: int = 0

    def __post_init__(self) -> None:
        require("mode", self.mode, 'be "exponential" or "linear"', lambda name: name in ("exponential", "linear"))
        require("monitor_mode", self.monitor_mode, 'be "min" or "max"', lambda name: name in ("min", "max"))
        lrs = tuple(self.lrs)
        require("values", len(self.values), f"be as many as `lrs` ({len(lrs)})", lambda number: number == len(lrs))
        pairs = itertools.pairwise(lrs)
        rises = all(0 < low < high for low, high in pairs)
        require("lrs", list(lrs), "be positive and rise", lambda _: rises)
        object.__setattr__(self, "lrs", lrs)
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "num_steps", self.num_steps or len(lrs))

    @cached_property
    def losses(self) -> list[float]:
        """The values before the first that is NaN or infinite, turned so that lower is better, at most ``[n]``."""
        finite = itertools.takewhile(math.isfinite, self.values)
        return [self._sign * value for value in finite]

    @cached_property
    def width(self) -> float:
        """Standard deviation of the average in steps: four tenths of a decade, or less where the steps are small."""
        if len(self.losses) < 2:
            return 1.0
        steps_per_decade = 1 / math.log10(self.lrs[len(self.losses) - 1] / self.lrs[len(self.losses) - 2])
        return max(1.0, min(_DECADES * steps_per_decade, _WIDEST * len(self.lrs)))

    @property
    def num_untrained(self) -> int:
        """How many losses at the start tell the untrained level: a tenth of them, or a twentieth of a linear sweep's.

        A linear sweep is at learning rates that train after its first few steps.
        """
        n = len(self.losses)
        return max(2, n // 20) if self.mode == "linear" else max(5, n // 10)

    @cached_property
    def untrained(self) -> float:
        """The loss before anything was learned: the median of the first ones."""
        return statistics.median(self.losses[: self.num_untrained])

    def cap(self, untrained: float | None = None) -> float:
        """The loss beyond which all count the same; ``untrained`` is a level known better, from an earlier sweep."""
        level = self.untrained if untrained is None else untrained
        return level + _CAP * max(0.0, level - min(smooth(self.losses, 1.0)))

    def smoothed_losses(self, untrained: float | None = None) -> list[float]:
        """:attr:`losses`, capped, and averaged without lag."""
        if not self.losses:
            return []
        cap = self.cap(untrained)
        return smooth([min(loss, cap) for loss in self.losses], self.width)

    def smoothed(self, untrained: float | None = None) -> list[float]:
        """The same as values, which is what is drawn, at most ``[n]``."""
        return self.turned(self.smoothed_losses(untrained))

    def turned(self, losses: Sequence[float]) -> list[float]:
        """Losses as values of the curve."""
        return [self._sign * loss for loss in losses]

    @property
    def _sign(self) -> float:
        return 1.0 if self.monitor_mode == "min" else -1.0


def smooth(values: Sequence[float], width: float) -> list[float]:
    """Centred Gaussian average along the steps of a sweep: no lag, and a constant stays that constant.

    Args:
        values: Finite values, ``[n]``.
        width: Standard deviation in steps.

    Returns:
        Smoothed values, ``[n]``.

    Example:
        >>> smooth([4.0, 4.0, 4.0], width=1)
        [4.0, 4.0, 4.0]
        >>> [round(value, 2) for value in smooth([0, 0, 1, 0, 0], width=1)]
        [0.08, 0.26, 0.4, 0.26, 0.08]
    """
    reach = math.ceil(3 * width)
    kernel = [math.exp(-0.5 * (offset / width) ** 2) for offset in range(-reach, reach + 1)]
    smoothed = []
    for center in range(len(values)):
        first, last = max(0, center - reach), min(len(values), center + reach + 1)
        weights = kernel[first - center + reach : last - center + reach]
        total = sum(weights)
        smoothed.append(sum(map(operator.mul, weights, values[first:last])) / total)
    return smoothed


def averaged_values(width: float) -> float:
    """How many values a Gaussian average of this standard deviation rests on: the inverse of its squared weights' sum.

    Example:
        >>> round(averaged_values(2.0), 2)
        7.09
    """
    return 2 * math.sqrt(math.pi) * width
