"""Reads the bounds off the recorded curve of a range test. Pure functions of lists of numbers."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from lightning_clr.bounds import LRBounds

_FEWEST_POINTS = 10
_STARTS = 0.1  # fraction of the whole improvement at which learning shows: `base_lr`
_SLOWS = 0.8  # fraction of the whole improvement up to which `max_lr` may go


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

    On the smoothed curve from the untrained level to the best value, ``base_lr`` is where a tenth of that improvement
    has happened, so where learning starts to show, and ``max_lr`` where four fifths have: beyond it the curve slows,
    gets ragged or turns (Smith 2017, section 3.3). Fractions of the whole improvement need no slopes, so noise at small
    learning rates cannot win.

    Args:
        lrs: Learning rate of each step, rising, ``[num_steps]``.
        values: What was recorded at each step, ``[num_steps]``; may end in NaN or infinity.
        direction: Whether lower or higher values are better.

    Returns:
        The bounds and an empty string, or ``None`` and the reason in plain words.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> losses = [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs]
        >>> bounds, reason = find_bounds(lrs, losses)
        >>> round(bounds.base_lr, 4), round(bounds.max_lr, 4)
        (0.0025, 0.0158)
        >>> find_bounds(lrs, [2.0 - 0.01 * step for step in range(60)])[1][:50]
        'the curve was still improving at the largest learn'
    """
    sign = 1.0 if direction == "min" else -1.0
    losses = [sign * value for value in finite_part(values)]
    if len(losses) < _FEWEST_POINTS:
        return None, (
            f"only {len(losses)} finite values were recorded, at least {_FEWEST_POINTS} are needed: start from a"
            " smaller min_lr or take more steps"
        )
    curve = smooth(losses)
    start = statistics.median(losses[: max(5, len(losses) // 10)])
    best = min(range(len(curve)), key=curve.__getitem__)
    improvement = start - curve[best]
    if improvement <= max(3 * _noise(losses, curve), 1e-3 * abs(start)):
        return None, "the curve did not improve clearly beyond its noise at any learning rate: take more steps"
    diverged = len(losses) < len(values)
    if not diverged and best >= len(curve) - max(2, len(curve) // 20):
        return None, f"the curve was still improving at the largest learning rate, {lrs[best]:.2g}: raise max_lr"
    upper = _last_above(curve, start - _SLOWS * improvement, best)
    lower = min(_last_above(curve, start - _STARTS * improvement, best), upper - 1)
    if lower < 1:
        return None, f"the curve improved from the very start: begin below min_lr={lrs[0]:.2g}"
    return LRBounds(lrs[lower], lrs[upper]), ""


def _last_above(curve: Sequence[float], level: float, end: int) -> int:
    """Index of the last point before ``end`` that is not below ``level``."""
    return max((index for index in range(end) if curve[index] >= level), default=0)


def _noise(values: Sequence[float], curve: Sequence[float]) -> float:
    """Standard error of the smoothed curve where it is flat, robustly: from the first third."""
    third = max(_FEWEST_POINTS, len(values) // 3)
    residuals = [abs(value - level) for value, level in zip(values[:third], curve[:third], strict=True)]
    averaged = 2 * math.sqrt(math.pi) * max(1.0, 0.03 * len(values))  # values that a Gaussian of this width averages
    return 1.4826 * statistics.median(residuals) / math.sqrt(averaged)
