"""Short trainings side by side: which learning rate was best, where learning is lost again, and where to look next."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_STRIDE = 4.0
"""Ratio of neighbouring learning rates: a parabola through three such is right within a few per cent."""
_LOST = 0.2
"""Part of the best gain that is lost at the edge."""
_SURE = 2.2
"""Standard deviations of the signed ranks at which losses are surely better, or worse: once in eighty by chance."""
_LEAST = 1e-3
"""The least gain that is one, in units of the untrained level: below a loss's usual digits."""
_FRUITLESS = 2
"""Short runs without a gain or a loss, after which no more are made; one, if none has failed that it lies below."""
_MARGIN, _DOUBTFUL_MARGIN = 3.5, 8.0
"""Edge over ``max_lr``, the second where learning has hardly begun: it goes on at learning rates that blow up later."""
_BEGUN = 0.15
"""Part of the untrained level that is lost once learning has begun."""
_ROSE = 0.1
"""Part of the untrained level by which a loss is above all untrained ones where it has risen on the way. Of thirteen
hard tasks of the benchmark, eight seeds each: 0.052 mean regret, without it 0.056."""
_LONGER = 1.2
"""Best ``max_lr`` of a training over that of runs an eighth as long, where neither is at its edge."""


@dataclass(frozen=True)
class ShortRun:
    """What the last steps of a short training have recorded.

    Args:
        max_lr: The largest learning rate of its 1cycle; 0 for the untrained network.
        values: The monitored value at each of its last steps, ``[n]``; a NaN alone if it did not come to its end.
        num_steps: Length in optimizer steps, those left out included.
        monitor_mode: Whether lower (``"min"``) or higher (``"max"``) values are better.
        falls: Whether the learning rate fell again after its rise.
        worst: The worst value on the way.
    """

    max_lr: float
    values: Sequence[float]
    num_steps: int
    monitor_mode: Literal["min", "max"] = "min"
    falls: bool = True
    worst: float = math.nan

    @property
    def losses(self) -> list[float]:
        """The values, turned so that lower is better, ``[n]``."""
        return [self._sign * value for value in self.values]

    @property
    def worst_loss(self) -> float:
        """The worst value, likewise."""
        return self._sign * self.worst

    @property
    def _sign(self) -> float:
        return 1.0 if self.monitor_mode == "min" else -1.0

    @property
    def is_through(self) -> bool:
        """Whether it has come to its end with finite values."""
        return all(map(math.isfinite, self.values))

    @property
    def level(self) -> float:
        """The mean value; NaN if there is none."""
        return statistics.fmean(self.values) if self.values else math.nan


class ShortRuns:
    """Short runs of one length, on a grid of learning rates a factor of four apart.

    Each is compared with the untrained network batch by batch. A learning rate is named by its place on the grid, which
    has every second power of two: 0 is the start, 2 a factor of four above it.

    Args:
        start: The learning rate of place 0.
        untrained: The untrained network on the batches of the last steps.

    Example:
        >>> untrained = ShortRun(0.0, [2.0, 2.1, 1.9], 40)
        >>> runs = ShortRuns(0.01, untrained)
        >>> for place, loss in {0: 1.2, 2: 0.8, 4: 1.4}.items():
        ...     runs.add(place, ShortRun(runs.lr(place), [loss, loss + 0.1, loss - 0.1], 40))
        >>> runs.has_learned, runs.next_place(), round(runs.best_lr, 3), round(runs.edge_lr, 3)
        (True, None, 0.035, 0.07)
    """

    def __init__(self, start: float, untrained: ShortRun) -> None:
        self.untrained = untrained
        self._start = start
        self.level = abs(statistics.fmean(untrained.losses))
        self._gains: dict[int, float] = {}
        self._ranks: dict[int, float] = {}
        self._rose: set[int] = set()

    def __len__(self) -> int:
        return len(self._gains)

    def lr(self, place: int) -> float:
        """The learning rate of a place."""
        return float(self._start * _STRIDE ** (place / 2))

    def add(self, place: int, run: ShortRun) -> None:
        """Take what a short run at a place has recorded."""
        self._gains[place] = self._ranks[place] = -math.inf
        if run.worst_loss > max(self.untrained.losses) + _ROSE * self.level:
            self._rose.add(place)
        if run.is_through and len(run.losses) == len(self.untrained.losses):
            gains = [before - after for before, after in zip(self.untrained.losses, run.losses, strict=True)]
            self._gains[place], self._ranks[place] = statistics.fmean(gains), signed_ranks(gains)

    @property
    def has_learned(self) -> bool:
        """Whether the best of them is surely better than untrained."""
        if not self._gains:
            return False
        return self._gains[self._top] > _LEAST * self.level and self._ranks[self._top] >= _SURE

    def has_failed(self, place: int) -> bool:
        """Whether a run has ended surely worse than untrained, or has been so on the way and learned nothing."""
        if place in self._rose and self._ranks[place] < _SURE:
            return True
        return self._gains[place] < -_LEAST * self.level and self._ranks[place] <= -_SURE

    @property
    def first_failure_lr(self) -> float:
        """The lowest learning rate at which one has failed; infinite if none has."""
        return min((self.lr(place) for place in self._gains if self.has_failed(place)), default=math.inf)

    def next_place(self) -> int | None:
        """Where to look next; ``None`` if the best learning rate lies between others, or nothing is learned."""
        if not self._gains:
            return 0
        low, high = min(self._gains), max(self._gains)
        if not self.has_learned:
            fruitless = sum(not self.has_failed(place) for place in self._gains)
            return low - 2 if fruitless < _FRUITLESS and self.has_failed(high) else None
        if len(self) == 1:
            return 2
        if self._top == low:
            return low - 2
        return high + 2 if self._top == high else None

    @property
    def gap(self) -> int | None:
        """The place between the last learning rate that is fine and the next, which is not; ``None`` if they adjoin."""
        fine = max(place for place, gain in self._gains.items() if gain >= (1 - _LOST) * self._gains[self._top])
        above = [place for place in self._gains if place > fine]
        return (fine + min(above)) // 2 if above and min(above) - fine == 2 else None

    @property
    def edge_lr(self) -> float:
        """The learning rate at which a fifth of the gain is lost, linear in between; infinite if none loses as much."""
        level, places = (1 - _LOST) * self._gains[self._top], sorted(self._gains)
        for low, high in itertools.pairwise(places):
            if low >= self._top and self._gains[high] < level:
                lost = self._gains[low] - max(self._gains[high], 0.0)
                return float(self._start * _STRIDE ** ((low + (high - low) * (self._gains[low] - level) / lost) / 2))
        return math.inf

    @property
    def best_lr(self) -> float:
        """The vertex of the parabola through the best learning rate and its neighbours."""
        places, best = sorted(self._gains), self._top
        at = places.index(best)
        if not 0 < at < len(places) - 1:
            return self.lr(best)
        low, high = places[at - 1], places[at + 1]
        most = self._gains[best]
        left, right = (most - max(self._gains[place], -most) for place in (low, high))
        rise, fall = left * (high - best), right * (best - low)
        if rise + fall == 0:  # all three are the same
            return self.lr(best)
        vertex = best + 0.5 * (rise * (high - best) - fall * (best - low)) / (rise + fall)
        vertex = min(max(vertex, (low + best) / 2), (best + high) / 2)
        return float(self._start * _STRIDE ** (vertex / 2))

    def max_lr(self, is_clear: bool) -> tuple[float, str]:
        """What they say of a training eight times as long, and where that comes from, in a few words for people.

        Args:
            is_clear: Whether a sweep has learned something, too.
        """
        margin = _MARGIN if is_clear or not self.is_doubtful else _DOUBTFUL_MARGIN
        best = _LONGER * self.best_lr, f"{_LONGER} times the best short run"
        stable = self.edge_lr / margin, f"where short runs get worse / {margin:g}"
        return min(best, stable)

    def hardly_begins_below(self, utmost_lr: float) -> bool:
        """Whether the highest learning rate below a limit is the best, and hardly learns."""
        is_highest = self._top == max(self._gains) and self.lr(self._top + 2) > utmost_lr
        return is_highest and self._gains[self._top] < _BEGUN * self.level

    @property
    def is_doubtful(self) -> bool:
        """Whether learning has hardly begun below a cliff, so that more time will change the picture.

        It has where a quarter of the best learning rate hardly learns, or even the best one; the next above does not.
        """
        top, gains = self._top, self._gains
        below = [place for place in gains if place < top - 1]
        is_cliff = any(gains[place] <= 0 for place in gains if top < place <= top + 2)
        hardly = bool(below) and gains[max(below)] < gains[top] / 2
        return is_cliff and (hardly or gains[top] < _BEGUN * self.level)

    @property
    def _top(self) -> int:
        return max(self._gains, key=self._gains.__getitem__)


def signed_ranks(differences: Sequence[float]) -> float:
    """How surely differences are above zero, in standard deviations: Wilcoxon's test, which outliers do not impress.

    Fewer than five cannot tell by their ranks; their sign must do.

    Args:
        differences: Differences of pairs, ``[n]``.

    Example:
        >>> round(signed_ranks([3.0, 1.0, -0.1, 0.5, 90.0, 2.0, 4.0, 0.2]), 2)
        2.38
        >>> signed_ranks([0.5]), signed_ranks([-0.5, -0.1])
        (inf, -inf)
    """
    n = len(differences)
    if n < 5:
        return math.inf if min(differences) > 0 else -math.inf if max(differences) < 0 else 0.0
    ordered = sorted(differences, key=abs)
    rank_sum = sum(math.copysign(rank, value) if value else 0.0 for rank, value in enumerate(ordered, start=1))
    return rank_sum / math.sqrt(n * (n + 1) * (2 * n + 1) / 6)
