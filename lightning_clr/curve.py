"""Reads the bounds off the recorded curve of a range test. Pure functions of lists of numbers."""

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Literal

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require

STILL_IMPROVING = "the curve was still improving at the largest learning rate"

FEWEST_POINTS = 10
_DECADES = 0.4  # standard deviation of the average that bounds are read off
_WIDEST = 0.06  # the same as a fraction of the sweep, where the learning rate rises by less than decades
_STARTS = 0.1  # fraction of the whole improvement at which learning shows: `base_lr`
_FLOOR = 0.05  # fraction of the whole improvement above the best value that still counts as the valley's floor
_BELOW_FLOOR = 4.0  # upper end of the floor over `max_lr`: a schedule stays longer at a learning rate than a sweep
_BELOW_ROUGH = 4.0  # where a flat curve becomes rough over `max_lr`
_BELOW_RISE = 2.0  # start of the final rise over `max_lr`: 2 / a over 1 / a on a quadratic of curvature a
_LEAST_RATIO = 4.0  # `max_lr` over `base_lr`, Smith's rule for cycles
_CAP = 0.5  # height above the untrained level, in improvements, beyond which values count the same
_ROUGH = 8.0  # mean square above the untrained level, in units of the noise, that counts as rough
_MOSTLY = 0.8  # fraction of the rest of the curve that stays rough where roughness begins


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
        smoothed.append(sum(w * v for w, v in zip(weights, values[first:last], strict=True)) / total)
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
    lrs: Sequence[float], values: Sequence[float], direction: Literal["min", "max"] = "min"
) -> tuple[LRBounds | None, str]:
    """Both bounds of a cycle, or the reason why the curve does not tell them.

    ``max_lr`` is a quarter of the learning rate up to which the curve, averaged over four tenths of a decade, stays
    within a twentieth of the improvement from its best. The average of the neighbours on both sides finds the floor of
    the valley where a raw curve has its best value wherever noise has it, and the upper end of a wide floor says more
    than its lowest point. Values far above the untrained level count as that level plus half the improvement, so that
    an explosion draws the floor towards small learning rates, but only so far. A quarter, because a schedule stays
    longer at a learning rate than a sweep does. Without noise the curve ends in an unbroken rise that starts at the
    limit of stability, far below where it leaves the floor; half of that limit is the most.

    ``base_lr`` is where a tenth of the improvement has happened, so where learning starts to show, and at most
    ``max_lr / 4``.

    Deep plain nets learn nothing during a sweep: their loss stays flat, then becomes rough and rises. They learn close
    below that, and ``max_lr`` is a quarter of where the roughness begins.

    Args:
        lrs: Learning rate of each step, rising, ``[num_steps]``.
        values: What was recorded at each step, ``[num_steps]``; may end in NaN or infinity.
        direction: Whether lower or higher values are better.

    Returns:
        The bounds and an empty string, or ``None`` and the reason in plain words.

    Raises:
        ValueError: If the learning rates do not rise, or are not as many as the values.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> losses = [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs]
        >>> bounds, reason = find_bounds(lrs, losses)
        >>> round(bounds.base_lr, 4), round(bounds.max_lr, 4)
        (0.002, 0.0396)
        >>> find_bounds(lrs, [2.0 - 0.01 * step for step in range(60)])[1][:50]
        'the curve was still improving at the largest learn'
    """
    require("direction", direction, 'be "min" or "max"', lambda name: name in ("min", "max"))
    require("values", len(values), f"be as many as `lrs` ({len(lrs)})", lambda number: number == len(lrs))
    pairs = itertools.pairwise(lrs)
    require("lrs", list(lrs), "be positive and rise", lambda _: all(0 < low < high for low, high in pairs))
    sign = 1.0 if direction == "min" else -1.0
    losses = [sign * value for value in finite_part(values)]
    if len(losses) < FEWEST_POINTS:
        return None, (
            f"only {len(losses)} finite values were recorded, at least {FEWEST_POINTS} are needed: start from a"
            " smaller min_lr or take more steps"
        )
    width = _width(lrs, len(losses))
    untrained = statistics.median(losses[: max(5, len(losses) // 10)])
    deepest = max(0.0, untrained - min(smooth(losses, 1.0)))
    curve = smooth([min(loss, untrained + _CAP * deepest) for loss in losses], width)
    best = min(range(len(curve)), key=curve.__getitem__)
    improvement = untrained - curve[best]
    rough = _roughness(losses, width)
    doubt = max(_doubt(losses, width), 1e-3 * abs(untrained))
    if improvement <= doubt or (rough is not None and rough <= best and improvement <= 2 * doubt):
        if rough is None:
            return None, "the curve did not improve clearly beyond its noise at any learning rate: take more steps"
        max_lr = lrs[rough] / _BELOW_ROUGH
        return LRBounds(max_lr / _LEAST_RATIO, max_lr), ""
    ends = _floor_ends(curve, best, curve[best] + _FLOOR * improvement)
    if len(losses) == len(values) and best >= len(curve) - max(2, len(curve) // 20):
        return None, f"{STILL_IMPROVING}, {lrs[best]:.2g}: raise max_lr"
    max_lr = min(lrs[ends] / _BELOW_FLOOR, lrs[_final_rise(losses)] / _BELOW_RISE)
    if max_lr <= lrs[0]:
        return None, f"the curve improved from the very start: begin below min_lr={lrs[0]:.2g}"
    shows = lrs[_last_above(curve, untrained - _STARTS * improvement, best)]
    return LRBounds(min(shows, max_lr / _LEAST_RATIO), max_lr), ""


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


def _doubt(losses: Sequence[float], width: float) -> float:
    """The improvement that noise alone could feign: three standard errors of smoothed curve and untrained level."""
    half = losses[: max(FEWEST_POINTS, len(losses) // 2)]
    jumps = [abs(after - before) for before, after in itertools.pairwise(half)]
    noise = 1.4826 * statistics.median(jumps) / math.sqrt(2)
    averaged = 2 * math.sqrt(math.pi) * width  # values that a Gaussian of this width averages
    first = max(5, len(losses) // 10)
    return 3 * noise * math.sqrt(1 / averaged + math.pi / 2 / first)


def _roughness(losses: Sequence[float], width: float) -> int | None:
    """Index from which the losses of an untrained model are rough and high for good; ``None`` if they never are."""
    half = losses[: max(FEWEST_POINTS, len(losses) // 2)]
    level = statistics.median(half)
    noise = 1.4826 * statistics.median(abs(loss - level) for loss in half)
    drift = statistics.median(half[len(half) // 2 :]) - statistics.median(half[: len(half) // 2])
    if noise == 0 or drift > noise:  # rising from the start: the untrained level is unknown
        return None
    rough = [mean >= _ROUGH for mean in smooth([_excess((loss - level) / noise) for loss in losses], width)]
    later = range(len(half), len(losses))
    return next((index for index in later if rough[index] and statistics.fmean(rough[index:]) >= _MOSTLY), None)


def _excess(height: float) -> float:
    """Square of a height above the untrained level, in units of the noise; one explosion must not count as many."""
    return min(max(0.0, height), 10.0) ** 2
