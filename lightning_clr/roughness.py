"""Where training becomes as rough as the data: what a curve tells of learning rates at which it learns nothing yet."""

import bisect
import functools
import math
import operator
import statistics
from collections.abc import Iterable, Sequence

from lightning_clr.curve import NORMAL_OVER_MAD, Curve
from lightning_clr.settings import FEWEST_POINTS

_OUTLIER = 4.0
"""Distance from the untrained level, in standard deviations of the noise, beyond which values count the same."""
_EVIDENCE = 6.0
"""Twice the log-likelihood that an onset must gain over noise of one variance: once in seventy by chance (chi-square
with one degree of freedom). Curves of pure noise are declined in 93 % of cases or more."""
_FACTORS = 100
"""A product of a hundred variances, each at most ``1 + _OUTLIER**2``, stays below 1e124: no float overflows."""


def onset_of_roughness(curves: Sequence[Curve]) -> float | None:
    """The learning rate at which training moves the loss as much as the choice of the batch does.

    Steps move the loss in proportion to the learning rate, so the variance about the untrained level, in units of that
    of the batches, is ``1 + (lr / onset)**2``. The likeliest onset draws on every point of every sweep; values far off
    count the same. ``None`` if the losses are likelier to be noise of one variance throughout, or have risen from the
    start.
    """
    points = sorted(point for curve in curves for point in squared_distances(curve))
    if not points:
        return None
    lrs, squares = zip(*points, strict=True)
    misfit = functools.cache(functools.partial(_misfit, lrs, squares))
    stride = math.isqrt(len(lrs))  # the likelihood is smooth: coarse steps find the neighbourhood of its peak
    near = min(range(0, len(lrs), stride), key=lambda index: misfit(lrs[index]))
    onset = min(lrs[max(0, near - stride) : near + stride + 1], key=misfit)
    variance = statistics.fmean(squares)
    return onset if misfit(onset) < len(points) * (math.log(variance) + 1) - _EVIDENCE else None


def squared_distances(curve: Curve) -> list[tuple[float, float]]:
    """Learning rates, and squared distances of the losses from their first half's level in units of its noise.

    Empty if that level is unknown: too few points, no noise, or losses that have risen from the start.
    """
    losses = curve.losses
    if len(losses) < FEWEST_POINTS:
        return []
    half = losses[: max(FEWEST_POINTS, len(losses) // 2)]
    level = statistics.median(half)
    noise = NORMAL_OVER_MAD * statistics.median(abs(loss - level) for loss in half)
    drift = statistics.median(half[len(half) // 2 :]) - statistics.median(half[: len(half) // 2])
    if noise == 0 or drift > noise:
        return []
    squares = [min(abs(loss - level) / noise, _OUTLIER) ** 2 for loss in losses]
    return list(zip(curve.lrs, squares, strict=False))


def _misfit(lrs: Sequence[float], squares: Sequence[float], onset: float) -> float:
    """Minus twice the log-likelihood, up to a constant, of an onset given rising ``lrs`` and squared distances."""
    most = _OUTLIER**2
    end = bisect.bisect_left(lrs, onset * math.sqrt(most - 1))
    variances = [1 + (lr / onset) ** 2 for lr in lrs[:end]]
    variances += [most] * (len(lrs) - end)
    chunks = range(0, len(variances), _FACTORS)  # a logarithm of a product is faster than the logarithms
    logarithms = (math.log(math.prod(variances[first : first + _FACTORS])) for first in chunks)
    distances: Iterable[float] = map(operator.truediv, squares, variances)
    return sum(logarithms) + sum(distances)
