"""Reads the bounds off the recorded curve of a range test. Pure functions of lists of numbers."""

import bisect
import dataclasses
import functools
import itertools
import math
import operator
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require

STILL_IMPROVING = "the curve was still improving at the largest learning rate"
NOTHING_HAPPENED = "the curve did not improve clearly beyond its noise at any learning rate"

FEWEST_POINTS = 10
_CLEAR = 3.0  # improvement, in units of what noise could feign, that needs no second sweep
_FAINT = 1.5  # the same, below which the last sweep is taken for one that learns nothing
_RAGGED = 4 / 3  # standard errors of the curve around its best that could feign an improvement
_DECADES = 0.4  # standard deviation of the average that bounds are read off
_WIDEST = 0.06  # the same as a fraction of the sweep, where the learning rate rises by less than decades
_STARTS = 0.1  # fraction of the whole improvement at which learning shows: `base_lr`
_FLOOR = 0.05  # fraction of the whole improvement above the best value that still counts as the valley's floor
_BELOW_FLOOR = 3.5  # upper end of the floor over `max_lr`: a schedule stays longer at a learning rate than a sweep
_BELOW_ROUGH = 2.0  # where training becomes as rough as the data over `max_lr`, if nothing is learnt in the sweep
_BELOW_RISE = 2.0  # start of the final rise over `max_lr`: 2 / a over 1 / a on a quadratic of curvature a
_BELOW_KNEE = 2.0  # where the curve of a linear sweep stops rising steeply over `max_lr`
_SLOWS = 0.9  # fraction of the whole improvement at which the curve of a linear sweep is said to slow down
_LEAST_RATIO = 4.0  # `max_lr` over `base_lr`, Smith's rule for cycles
_CAP = 0.5  # height above the untrained level, in improvements, beyond which values count the same
_OUTLIER = 4.0  # distance from the untrained level, in units of the noise, beyond which values count the same
_EVIDENCE = 6.0  # twice the log-likelihood that an onset of roughness must gain over noise of one variance
_CLOSER = (1 / 12, 50.0)  # where the second sweep looks, in units of where training becomes as rough as the data
_READINGS = 40  # how often at most the bounds are read while a second sweep goes on
_ALIKE = 4  # readings in a row that have to agree to settle the bounds
_SAME = 1.025  # ratio up to which they do
_PAST = 3.0  # the learning rate by then over `max_lr`


def smooth(values: Sequence[float], width: float | None = None) -> list[float]:
    """Centred Gaussian average along the steps of the sweep: no lag, and a constant stays that constant.

    Args:
        values: Recorded values, finite, ``[num_steps]``.
        width: Standard deviation in steps; by default three hundredths of the number of values, at least 1.

    Returns:
        Smoothed values, ``[num_steps]``.

    Example:
        >>> smooth([4.0, 4.0, 4.0])
        [4.0, 4.0, 4.0]
        >>> [round(value, 2) for value in smooth([0, 0, 1, 0, 0], width=1)]
        [0.08, 0.26, 0.4, 0.26, 0.08]
    """
    width = max(1.0, 0.03 * len(values)) if width is None else width
    reach = math.ceil(3 * width)
    kernel = [math.exp(-0.5 * (offset / width) ** 2) for offset in range(-reach, reach + 1)]
    smoothed = []
    for center in range(len(values)):
        first, last = max(0, center - reach), min(len(values), center + reach + 1)
        weights = kernel[first - center + reach : last - center + reach]
        total = sum(weights)
        smoothed.append(sum(map(operator.mul, weights, values[first:last])) / total)
    return smoothed


def finite_part(values: Sequence[float]) -> list[float]:
    """The values before the first that is NaN or infinite.

    Example:
        >>> finite_part([2.0, 1.0, math.nan, 1.0])
        [2.0, 1.0]
    """
    end = next((index for index, value in enumerate(values) if not math.isfinite(value)), len(values))
    return list(values[:end])


def find_bounds(
    lrs: Sequence[float],
    values: Sequence[float],
    direction: Literal["min", "max"] = "min",
    closer: tuple[Sequence[float], Sequence[float]] | None = None,
    mode: Literal["exponential", "linear"] = "exponential",
) -> tuple[LRBounds | None, str]:
    """Both bounds of a cycle, or the reason why the curve does not tell them.

    ``max_lr`` is two sevenths of the learning rate up to which the curve, averaged over four tenths of a decade, stays
    within a twentieth of the improvement from its best. The average of the neighbours on both sides finds the floor of
    the valley where a raw curve has its best value wherever noise has it, and the upper end of a wide floor says more
    than its lowest point. Values far above the untrained level count as that level plus half the improvement, so that
    an explosion draws the floor towards small learning rates, but only so far. Two sevenths, because a schedule stays
    longer at a learning rate than a sweep does. Without noise the curve ends in an unbroken rise that starts at the
    limit of stability, far below where it leaves the floor; half of that limit is the most.

    ``base_lr`` is where a tenth of the improvement has happened, so where learning starts to show, and at most
    ``max_lr / 4``.

    A linear sweep, Smith's original, usually of an accuracy, is read as he does: ``base_lr`` where it begins to rise,
    ``max_lr`` where it slows down, before it becomes ragged or falls. However long it stays flat after that, this point
    stays. A sweep of a hundred steps learns later than a whole training does, so half of it is taken.

    A curve whose improvement hardly exceeds its noise is read with the help of a second, slower sweep over the part of
    it that :func:`closer_range` names. Deep plain nets may learn nothing even there, and yet learn just below the
    learning rates that make their loss rough: ``max_lr`` is then half of where the steps of training move the loss as
    much as the choice of the batch does.

    Args:
        lrs: Learning rate of each step, rising, ``[num_steps]``.
        values: What was recorded at each step, ``[num_steps]``; may end in NaN or infinity.
        direction: Whether lower or higher values are better.
        closer: Learning rates and values of the second sweep, if there was one.
        mode: How the learning rate rises.

    Returns:
        The bounds and an empty string, or ``None`` and the reason in plain words.

    Raises:
        ValueError: If the learning rates do not rise, or are not as many as the values.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> losses = [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs]
        >>> bounds, reason = find_bounds(lrs, losses)
        >>> round(bounds.base_lr, 4), round(bounds.max_lr, 4)
        (0.002, 0.0397)
        >>> find_bounds(lrs, [2.0 - 0.01 * step for step in range(60)])[1][:50]
        'the curve was still improving at the largest learn'
    """
    first = _Sweep(lrs, values, direction, mode)
    if len(first.losses) < FEWEST_POINTS:
        return None, (
            f"only {len(first.losses)} finite values were recorded, at least {FEWEST_POINTS} are needed: start from a"
            " smaller min_lr or take more steps"
        )
    sweeps = [first] if closer is None else [first, _Sweep(*closer, direction, mode, first.untrained)]
    sweep = first if first.clarity >= _CLEAR else sweeps[-1]
    if sweep.clarity >= _FAINT:
        bounds, reason = sweep.valley()
        if bounds is not None or sweep is first or reason.startswith(STILL_IMPROVING):
            return bounds, reason
    rough = _onset(sweeps)
    if rough is not None:
        return LRBounds(rough / _BELOW_ROUGH / _LEAST_RATIO, rough / _BELOW_ROUGH), ""
    if first.clarity >= 1:
        return first.valley()
    return None, f"{NOTHING_HAPPENED}: take more steps"


def closer_range(
    lrs: Sequence[float], values: Sequence[float], direction: Literal["min", "max"] = "min"
) -> LRBounds | None:
    """Where a second, slower sweep should look at a curve that hardly rises above its noise; ``None`` if it is clear.

    Around the learning rate from which on training moves the loss as much as the choice of the batch does: from where
    nothing has happened yet, up to where all is over. If nothing is seen to happen at all, the whole of it. A curve
    without noise, or one that rises from the start, is clear in its way.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> print(closer_range(lrs, [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs]))
        None
    """
    sweep = _Sweep(lrs, values, direction, "exponential")
    if len(sweep.losses) < FEWEST_POINTS or sweep.clarity >= _CLEAR:
        return None
    rough = _onset([sweep])
    if rough is not None:
        return LRBounds(rough * _CLOSER[0], rough * _CLOSER[1])
    return LRBounds(lrs[0], lrs[len(sweep.losses) - 1]) if sweep.distances() else None


class Settling:
    """Tells when the second sweep has shown its valley: both bounds stand still, and lie well behind.

    They are read up to forty times in the planned length. Four readings of a valley in a row that agree settle them, if
    the learning rate is at three times ``max_lr`` by then.

    Args:
        first: Learning rates and values of the first sweep.
        direction: Whether lower or higher values are better.
        num_steps: Planned length of the second sweep.

    Example:
        >>> lrs = [10 ** (step / 100 - 4) for step in range(400)]
        >>> losses = [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs]
        >>> is_settled = Settling((lrs, losses), "min", num_steps=400)
        >>> [is_settled(lrs[:end], losses[:end]) for end in range(1, 401)].index(True)
        349
    """

    def __init__(
        self, first: tuple[Sequence[float], Sequence[float]], direction: Literal["min", "max"], num_steps: int
    ) -> None:
        self._untrained = _Sweep(*first, direction, "exponential").untrained
        self._direction = direction
        self._every = math.ceil(num_steps / _READINGS)
        self._found: list[LRBounds | None] = []

    def __call__(self, lrs: Sequence[float], values: Sequence[float]) -> bool:
        """Whether the sweep may end; to be asked at each of its steps, with all that it has recorded."""
        if len(lrs) % self._every:
            return False
        sweep = _Sweep(lrs, values, self._direction, "exponential", self._untrained)
        self._found.append(sweep.valley()[0] if sweep.clarity >= _FAINT else None)
        found = [bounds for bounds in self._found[-_ALIKE:] if bounds is not None]
        if len(found) < _ALIKE or lrs[-1] < _PAST * found[-1].max_lr:
            return False
        return all(max(bound) <= _SAME * min(bound) for bound in zip(*map(dataclasses.astuple, found), strict=True))


def find_plateau(
    lrs: Sequence[float],
    values: Sequence[float],
    direction: Literal["min", "max"] = "min",
    mode: Literal["exponential", "linear"] = "exponential",
) -> tuple[float, float] | None:
    """The learning rates between which a curve stays at its best; ``None`` if it never improves.

    From where nine tenths of the improvement have happened up to where a twentieth of it is lost again. A long one, as
    Smith's curves of super-convergence have, has no best point that would mean anything.

    Example:
        >>> lrs = [step / 100 for step in range(1, 101)]
        >>> accuracies = [min(lr / 0.2, 0.8, 2.4 - 2 * lr) for lr in lrs]
        >>> find_plateau(lrs, accuracies, "max", "linear")
        (0.19, 0.78)
    """
    sweep = _Sweep(lrs, values, direction, mode)
    if sweep.clarity < 1:
        return None
    slows, ends = sweep.plateau()
    return lrs[slows], lrs[ends]


class _Sweep:
    """The finite part of a recorded curve, turned so that lower is better, and what can be seen in it."""

    def __init__(
        self,
        lrs: Sequence[float],
        values: Sequence[float],
        direction: str,
        mode: str,
        untrained: float | None = None,
    ) -> None:
        require("mode", mode, 'be "exponential" or "linear"', lambda name: name in ("exponential", "linear"))
        require("direction", direction, 'be "min" or "max"', lambda name: name in ("min", "max"))
        require("values", len(values), f"be as many as `lrs` ({len(lrs)})", lambda number: number == len(lrs))
        pairs = itertools.pairwise(lrs)
        require("lrs", list(lrs), "be positive and rise", lambda _: all(0 < low < high for low, high in pairs))
        sign = 1.0 if direction == "min" else -1.0
        self.lrs = lrs
        self.losses = losses = [sign * value for value in finite_part(values)]
        self.clarity = 0.0
        if len(losses) < FEWEST_POINTS:
            return
        width = _width(lrs, len(losses))
        self.linear = mode == "linear"
        start = max(2, len(losses) // 20) if self.linear else max(5, len(losses) // 10)
        self.untrained = statistics.median(losses[:start]) if untrained is None else untrained
        deepest = max(0.0, self.untrained - min(smooth(losses, 1.0)))
        self.cap = self.untrained + _CAP * deepest
        self.curve = smooth([min(loss, self.cap) for loss in losses], width)
        self.best = min(range(len(losses)), key=self.curve.__getitem__)
        self.improvement = self.untrained - self.curve[self.best]
        doubt = max(_doubt(losses, width, start), self._roughness(width), 1e-3 * abs(self.untrained))
        if doubt:
            self.clarity = self.improvement / doubt

    def _roughness(self, width: float) -> float:
        """The improvement that the roughness of the curve around its best could feign."""
        first, last = max(0, self.best - math.ceil(2 * width)), self.best + math.ceil(2 * width) + 1
        pairs = zip(self.losses[first:last], self.curve[first:last], strict=True)
        variance = statistics.fmean((min(loss, self.cap) - level) ** 2 for loss, level in pairs)
        return _RAGGED * math.sqrt(variance / _averaged(width))

    def valley(self) -> tuple[LRBounds | None, str]:
        """The bounds of a curve that has improved."""
        lrs, losses = self.lrs, self.losses
        slows, ends = self.plateau()
        last = len(losses) - max(2, len(losses) // 20)
        rising = slows >= _SLOWS * last if self.linear else self.best >= last  # a straight line is at 0.9 there
        if len(losses) == len(lrs) and rising and max(losses[last:]) < self.cap:
            return None, f"{STILL_IMPROVING}, {lrs[self.best]:.2g}: raise max_lr"
        max_lr = lrs[slows] / _BELOW_KNEE if self.linear else lrs[ends] / _BELOW_FLOOR
        max_lr = min(max_lr, lrs[_final_rise(losses)] / _BELOW_RISE)
        if max_lr <= lrs[0]:
            return None, f"the curve improved from the very start: begin below min_lr={lrs[0]:.2g}"
        shows = lrs[_last_above(self.curve, self.untrained - _STARTS * self.improvement, self.best)]
        return LRBounds(min(shows, max_lr / _LEAST_RATIO), max_lr), ""

    def plateau(self) -> tuple[int, int]:
        """Indices of the first and the last point at which the curve is at its best."""
        above = _last_above(self.curve, self.untrained - _SLOWS * self.improvement, self.best)
        ends = _floor_ends(self.curve, self.best, self.curve[self.best] + _FLOOR * self.improvement)
        return min(above + 1, self.best), ends

    def distances(self) -> list[tuple[float, float]]:
        """Learning rates, and squared distances of the losses from their first half's level in units of its noise."""
        if len(self.losses) < FEWEST_POINTS:
            return []
        half = self.losses[: max(FEWEST_POINTS, len(self.losses) // 2)]
        level = statistics.median(half)
        noise = 1.4826 * statistics.median(abs(loss - level) for loss in half)
        drift = statistics.median(half[len(half) // 2 :]) - statistics.median(half[: len(half) // 2])
        if noise == 0 or drift > noise:  # rising from the start: the untrained level is unknown
            return []
        squares = [min(abs(loss - level) / noise, _OUTLIER) ** 2 for loss in self.losses]
        return list(zip(self.lrs, squares, strict=False))


def _width(lrs: Sequence[float], num_values: int) -> float:
    """Four tenths of a decade in steps, or less where the steps are small."""
    steps_per_decade = 1 / math.log10(lrs[num_values - 1] / lrs[num_values - 2])
    return max(1.0, min(_DECADES * steps_per_decade, _WIDEST * len(lrs)))


def _floor_ends(curve: Sequence[float], best: int, level: float) -> int:
    """Index of the last point from ``best`` on that the curve reaches without rising above ``level``."""
    return next((index - 1 for index in range(best, len(curve)) if curve[index] > level), len(curve) - 1)


def _final_rise(losses: Sequence[float]) -> int:
    """Index of the lowest point of the unbroken rise that the curve ends with."""
    start = len(losses) - 1
    while start and losses[start - 1] < losses[start]:
        start -= 1
    return start


def _last_above(curve: Sequence[float], level: float, end: int) -> int:
    """Index of the last point before ``end`` that is not below ``level``."""
    return max((index for index in range(end) if curve[index] >= level), default=0)


def _doubt(losses: Sequence[float], width: float, start: int) -> float:
    """The improvement that noise alone could feign: three standard errors of smoothed curve and untrained level.

    The level is the median of the first ``start`` values.
    """
    half = losses[: max(FEWEST_POINTS, len(losses) // 2)]
    jumps = [abs(after - before) for before, after in itertools.pairwise(half)]
    noise = 1.4826 * statistics.median(jumps) / math.sqrt(2)
    return 3 * noise * math.sqrt(1 / _averaged(width) + math.pi / 2 / start)


def _averaged(width: float) -> float:
    """How many values a Gaussian of this standard deviation averages."""
    return 2 * math.sqrt(math.pi) * width


def _onset(sweeps: Iterable[_Sweep]) -> float | None:
    """The learning rate at which training moves the loss as much as the choice of the batch does.

    Steps move the loss in proportion to the learning rate, so the variance about the untrained level, in units of that
    of the batches, is ``1 + (lr / onset)**2``. The likeliest onset draws on every point of every sweep; values far off
    count the same. ``None`` if the losses are likelier to be noise of one variance throughout, or have risen from the
    start.
    """
    points = sorted(point for sweep in sweeps for point in sweep.distances())
    if not points:
        return None
    lrs, squares = zip(*points, strict=True)
    misfit = functools.cache(functools.partial(_misfit, lrs, squares))
    stride = math.isqrt(len(lrs))  # the likelihood is smooth: coarse steps find the neighbourhood of its peak
    near = min(range(0, len(lrs), stride), key=lambda index: misfit(lrs[index]))
    onset = min(lrs[max(0, near - stride) : near + stride + 1], key=misfit)
    variance = statistics.fmean(squares)
    return onset if misfit(onset) < len(points) * (math.log(variance) + 1) - _EVIDENCE else None


def _misfit(lrs: Sequence[float], squares: Sequence[float], onset: float) -> float:
    """Minus twice the log-likelihood, up to a constant, of an onset given rising ``lrs`` and squared distances."""
    most = _OUTLIER**2
    end = bisect.bisect_left(lrs, onset * math.sqrt(most - 1))
    variances = [1 + (lr / onset) ** 2 for lr in lrs[:end]]
    variances += [most] * (len(lrs) - end)
    # the logarithm of a product of a hundred, which is below 1e121, is faster than a hundred logarithms
    logarithms = (math.log(math.prod(variances[first : first + 100])) for first in range(0, len(variances), 100))
    distances: Iterable[float] = map(operator.truediv, squares, variances)
    return sum(logarithms) + sum(distances)
