"""What other finders read off a curve, from their published descriptions: functions of learning rates and losses."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def valley(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """fastai: about the middle of the longest decreasing subsequence."""
    x, y = _trimmed(lrs, losses)
    if len(y) < 6:
        return None
    length = [1] * len(y)
    start = end = 0
    for i in range(1, len(y)):
        for j in range(i):
            if y[i] < y[j] and length[i] < length[j] + 1:
                length[i] = length[j] + 1
            if length[end] < length[i]:
                end, start = i, i - length[i]
    section = (end - start) / 3
    return float(x[max(0, start + int(section) + int(section / 2))])


def slide(lrs: Sequence[float], losses: Sequence[float], threshold: float = 0.005) -> float | None:
    """fastai: from the right, while slopes 15 steps apart differ."""
    x, y = _trimmed(lrs, losses)
    if len(y) < 16:
        return None
    slopes = np.gradient(y)
    right, left, found = -1, -16, None
    while left >= -len(y) and abs(slopes[right] - slopes[left]) > threshold:
        found = float(x[left])
        right, left = right - 1, left - 1
    return found


def steep(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """fastai: the steepest descent per step of the logarithm."""
    x, y = _trimmed(lrs, losses)
    return float(x[np.argmin(np.diff(y) / np.diff(np.log(x)))]) if len(y) > 2 else None


def tenth_of_minimum(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """fastai: a tenth of the learning rate of the lowest smoothed loss."""
    x, y = _trimmed(lrs, losses)
    return float(x[np.argmin(y)]) / 10 if len(y) else None


def lightning(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Lightning 2.6: the steepest descent per learning rate, with its correction of the average."""
    x, y = _averaged(lrs, losses, late=1)
    return float(x[10:-1][np.argmin(np.gradient(y[10:-1], x[10:-1]))]) if len(y) > 14 else None


def _trimmed(lrs: Sequence[float], losses: Sequence[float]) -> tuple[Array, Array]:
    x, y = _averaged(lrs, losses)
    return x[len(x) // 10 : -5], y[len(x) // 10 : -5]


def _averaged(lrs: Sequence[float], losses: Sequence[float], late: int = 0) -> tuple[Array, Array]:
    """The running average all of them use, to the last finite loss."""
    average, averaged = 0.0, []
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            break
        average = 0.98 * average + 0.02 * loss
        averaged.append(average / (1 - 0.98 ** (index + 1 + late)))
    return np.array(lrs[: len(averaged)]), np.array(averaged)
