"""When a sweep has diverged: told from noise, value by value."""

import itertools
import math
import statistics

from lightning_clr.curve import NORMAL_OVER_MAD

_RECENT = 5
"""Values whose median is compared: a single noisy batch is no divergence."""
_AT_ONCE = 1000.0
"""Multiple beyond which no single value is noise, so that steps after an explosion are spared."""
_DROWNED = 2 / 3
"""Noise from batch to batch over the level, beyond which the level says little. Batches of one have 0.87 or more, the
benchmark's diverging sweeps, of batches of four and more, 0.57 at most."""
_UNSURE = 2.0
"""Relative error of the noise, and so of that ratio, that one value would have: a few tell little."""
_LARGE = 10.0
"""A rise that such noise does not feign, in its standard deviations. Of 80 sweeps of a linear model in batches of one,
28 end below 1e-3 without it, and none with it. Of 400 times 100 squares of normal noise, as in batches of one, two and
four, 55, 54 and 46 % are taken for divergence without it, 0.5, 1.5 and 8 % with it."""


class Divergence:
    """Is told the losses of a sweep one by one, and tells from which on it has diverged.

    Args:
        stop_factor: The multiple of the lowest loss above which the sweep ends; ``None`` never ends it, except at NaN
            and infinity.

    Example:
        >>> has_diverged = Divergence(4.0)
        >>> [has_diverged(loss) for loss in (*[2.0] * 20, 1.0, 0.5, 0.4, 3.0, 9.0, 20.0, 30.0)].index(True)
        26
        >>> has_diverged = Divergence(4.0)
        >>> [has_diverged(loss) for loss in (2.0, 2.1, 2.0, 1.0, 0.5, 5e3)].index(True)
        5
    """

    def __init__(self, stop_factor: float | None) -> None:
        self._stop_factor = stop_factor
        self._losses: list[float] = []
        self._lowest = math.inf

    def __call__(self, loss: float) -> bool:
        """Whether the sweep has diverged with this loss."""
        if not math.isfinite(loss):
            return True
        self._losses.append(loss)
        recent = statistics.median(self._losses[-_RECENT:])
        self._lowest = min(self._lowest, recent)
        first = self._losses[:_RECENT]
        if self._stop_factor is None or max(recent, loss) <= max(first):
            return False
        noise = self._noise()
        scale = max(abs(self._lowest), abs(statistics.median(first)), noise)  # a loss near zero may rise by any factor
        if loss > self._lowest + (_AT_ONCE - 1) * scale:
            return True
        limit = max(self._lowest + (self._stop_factor - 1) * abs(self._lowest), *first)
        unsure = 1 + _UNSURE / math.sqrt(len(self._losses))
        drowned = unsure * noise > _DROWNED * abs(statistics.median(self._losses))
        return recent > (max(limit, _LARGE * noise) if drowned else limit)

    def _noise(self) -> float:
        """Standard deviation of the noise from batch to batch; differences are blind to what changes slowly."""
        jumps = [abs(after - before) for before, after in itertools.pairwise(self._losses)]
        return NORMAL_OVER_MAD * statistics.median(jumps) / math.sqrt(2) if jumps else 0.0
