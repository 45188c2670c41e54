"""One curve seen as a valley: how deep it is, how sure that is, and where it starts, has its floor, and rises again."""

import itertools
import math
import statistics
from collections.abc import Sequence
from functools import cached_property

from lightning_clr.curve import NORMAL_OVER_MAD, Curve, averaged_values
from lightning_clr.settings import FEWEST_POINTS

_STARTS = 0.1
"""Fraction of the improvement at which learning shows. Smith 2017, section 3.3: where the accuracy begins to rise."""
_SLOWS = 0.9
"""Fraction of the improvement at which the curve slows down. Smith 2017, section 3.3: where the accuracy slows."""
_FLOOR = 0.05
"""Height above the best, in units of the improvement, up to which the curve is at its floor: chosen on ``dev``."""
_FEIGNED = 3.0
"""Standard errors that noise may be off: one in some hundred of normal noise is further."""
_RAGGED = 4 / 3
"""The same for the curve's own roughness around its best, of which a slope is part: chosen on ``dev``."""
_LEAST = 1e-3
"""The least improvement that is one, in units of the untrained level: below a loss's usual digits."""


class Valley:
    """The valley of a curve, turned so that lower is better. Whatever is not asked for is not computed.

    Args:
        curve: The curve. Only :attr:`smoothed` and :attr:`clarity` have an answer where no value is finite.
        untrained: The untrained level, if an earlier sweep of the same training tells it; by default the curve's own.
    """

    def __init__(self, curve: Curve, untrained: float | None = None) -> None:
        self.curve = curve
        self._known_untrained = untrained

    @property
    def untrained(self) -> float:
        """The loss before anything was learned."""
        return self.curve.untrained if self._known_untrained is None else self._known_untrained

    @cached_property
    def cap(self) -> float:
        """The loss beyond which all count the same."""
        return self.curve.cap(self.untrained)

    @cached_property
    def smoothed(self) -> list[float]:
        """What is read: the losses without their noise."""
        return self.curve.smoothed_losses(self._known_untrained)

    @cached_property
    def best(self) -> int:
        """Index of the lowest smoothed loss."""
        return min(range(len(self.smoothed)), key=self.smoothed.__getitem__)

    @property
    def improvement(self) -> float:
        """How far that is below the untrained level."""
        return self.untrained - self.smoothed[self.best]

    @cached_property
    def clarity(self) -> float:
        """The improvement in units of what noise could feign; 0 if there are too few points, or there is no noise."""
        if len(self.curve.losses) < FEWEST_POINTS:
            return 0.0
        doubt = max(self._noise(), self._roughness(), _LEAST * abs(self.untrained))
        return self.improvement / doubt if doubt else 0.0

    @property
    def starts(self) -> int:
        """Index of the point at which learning shows."""
        return self._last_above(self.untrained - _STARTS * self.improvement)

    @property
    def slows(self) -> int:
        """Index of the point at which nine tenths of the improvement have happened."""
        return min(self._last_above(self.untrained - _SLOWS * self.improvement) + 1, self.best)

    @property
    def floor(self) -> float:
        """The smoothed loss up to which the curve is at its floor."""
        return self.smoothed[self.best] + _FLOOR * self.improvement

    @property
    def floor_ends(self) -> int:
        """Index of the last point from the best on that is reached without rising above the floor."""
        above = (index for index in range(self.best, len(self.smoothed)) if self.smoothed[index] > self.floor)
        return next(above, len(self.smoothed)) - 1

    @property
    def final_rise(self) -> int:
        """Index of the lowest point of the unbroken rise that the recorded losses end with.

        Without noise it starts at the limit of stability, far below where the smoothed curve leaves its floor.
        """
        losses = self.curve.losses
        start = len(losses) - 1
        while start and losses[start - 1] < losses[start]:
            start -= 1
        return start

    @property
    def is_open(self) -> bool:
        """Whether the curve was still improving, and had not diverged, at its last learning rate."""
        losses, linear = self.curve.losses, self.curve.mode == "linear"
        last = len(losses) - max(2, len(losses) // 20)
        improving = self.slows >= _SLOWS * last if linear else self.best >= last  # a straight line slows at 0.9
        return improving and len(losses) == len(self.curve.lrs) and max(losses[last:]) < self.cap

    def _last_above(self, level: float) -> int:
        """Index of the last point before the best that is not below ``level``."""
        return max((index for index in range(self.best) if self.smoothed[index] >= level), default=0)

    def _noise(self) -> float:
        """The improvement that noise alone could feign: some standard errors of smoothed curve and untrained level.

        Each loss differs from the next by noise of twice its variance. The level is a median, whose variance is pi / 2
        times that of a mean.
        """
        losses = self.curve.losses
        half = losses[: max(FEWEST_POINTS, len(losses) // 2)]
        jumps = [abs(after - before) for before, after in itertools.pairwise(half)]
        noise = NORMAL_OVER_MAD * statistics.median(jumps) / math.sqrt(2)
        variance = 1 / averaged_values(self.curve.width) + math.pi / 2 / self.curve.num_untrained
        return _FEIGNED * noise * math.sqrt(variance)

    def _roughness(self) -> float:
        """The improvement that the roughness of the curve around its best could feign."""
        reach = math.ceil(2 * self.curve.width)
        first, last = max(0, self.best - reach), self.best + reach + 1
        pairs = zip(self.curve.losses[first:last], self.smoothed[first:last], strict=True)
        variance = statistics.fmean((min(loss, self.cap) - level) ** 2 for loss, level in pairs)
        return _RAGGED * math.sqrt(variance / averaged_values(self.curve.width))


def valleys(curves: Sequence[Curve]) -> list[Valley]:
    """The valley of each curve; the untrained level of all is that of the first."""
    untrained = curves[0].untrained if curves and curves[0].losses else None
    return [Valley(curve, untrained) for curve in curves]
