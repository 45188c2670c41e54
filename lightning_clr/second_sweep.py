"""The second, slower sweep, where the first hardly rises above its noise: where it looks, and when it may end."""

import math

from lightning_clr.bounds import LRBounds
from lightning_clr.curve import Curve
from lightning_clr.plan import SweepPlan
from lightning_clr.reading import CLEAR, FAINT, read_valley
from lightning_clr.roughness import onset_of_roughness, squared_distances
from lightning_clr.settings import FEWEST_POINTS, Settings
from lightning_clr.valley import Valley, valleys

_AROUND_ROUGHNESS = (1 / 12, 50.0)
"""Where a second sweep looks, in units of where training becomes as rough as the data: from where nothing has happened
yet (from a quarter, 0.078 mean regret on those tasks instead of 0.034) up to where all is over."""
_MOST_STEPS = 400
"""Steps of a second sweep at the most. Of the benchmark's rows: 100, 200, 300, 400 have 0.042, 0.026, 0.022, 0.019 mean
regret."""
_FEWEST_STEPS = 40
"""Steps below which a second sweep tells nothing that the first did not."""
_READINGS = 40
"""How often at the most a second sweep is read while it goes on; a reading costs about a millisecond."""
_ALIKE = 4
"""Readings in a row that settle the bounds. Of the benchmark's rows: three 0.018 mean regret, four and five 0.0145."""
_SAME = 1.025
"""Ratio up to which readings agree. Of the benchmark's rows: within 4 % has 0.0157 mean regret, within 2.5 % 0.0145."""
_PAST = 3.0
"""Learning rate over ``max_lr`` by the time that settles it: the floor, which ends at 3.5 times, is all but over."""


def second_plan(first: Curve, settings: Settings, utmost_lr: float, most_steps: int) -> SweepPlan | None:
    """The second sweep, at learning rates up to ``utmost_lr``; ``None`` if it is too short, or the first clear enough.

    Args:
        first: The curve of the first sweep.
        settings: Those of the test.
        utmost_lr: The largest learning rate.
        most_steps: How many steps it may have.
    """
    part, num_steps = second_range(first), min(_MOST_STEPS, most_steps)
    if part is None or num_steps < _FEWEST_STEPS:
        return None
    lowest, highest = max(settings.min_lr, part[0]), min(utmost_lr, part[1])
    return SweepPlan(lowest, highest, num_steps, ends_when=Settled(first, num_steps))


def second_range(first: Curve) -> tuple[float, float] | None:
    """Where a second, slower sweep should look at a curve that hardly rises above its noise; ``None`` if it is clear.

    Around the learning rate from which on training moves the loss as much as the choice of the batch does: from where
    nothing has happened yet, up to where all is over. If nothing is seen to happen at all, the whole of it. A curve
    without noise, or one that rises from the start, is clear in its way.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> print(second_range(Curve(lrs, [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs])))
        None
    """
    if len(first.losses) < FEWEST_POINTS or Valley(first).clarity >= CLEAR:
        return None
    rough_lr = onset_of_roughness([first])
    if rough_lr is not None:
        lowest, highest = _AROUND_ROUGHNESS
        return rough_lr * lowest, rough_lr * highest
    return (first.lrs[0], first.lrs[len(first.losses) - 1]) if squared_distances(first) else None


class Settled:
    """Tells when the second sweep has shown its valley: both bounds stand still, and lie well behind.

    They are read up to forty times in the planned length. Four readings of a valley in a row that agree settle them, if
    the learning rate is at three times ``max_lr`` by then.

    Args:
        first: The curve of the first sweep.
        num_steps: Planned length of the second.

    Example:
        >>> lrs = [10 ** (step / 100 - 4) for step in range(400)]
        >>> losses = [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs]
        >>> is_settled = Settled(Curve(lrs, losses), num_steps=400)
        >>> [is_settled(Curve(lrs[:end], losses[:end])) for end in range(1, 401)].index(True)
        349
    """

    def __init__(self, first: Curve, num_steps: int) -> None:
        self._first = first
        self._every = math.ceil(num_steps / _READINGS)
        self._found: list[LRBounds | None] = []

    def __call__(self, curve: Curve) -> bool:
        """Whether the sweep may end; to be asked at each of its steps, with all that it has recorded."""
        if len(curve.lrs) % self._every:
            return False
        valley = valleys([self._first, curve])[1]
        self._found.append(read_valley(valley).bounds if valley.clarity >= FAINT else None)
        found = [bounds for bounds in self._found[-_ALIKE:] if bounds is not None]
        if len(found) < _ALIKE or curve.lrs[-1] < _PAST * found[-1].max_lr:
            return False
        both = [bounds.base_lr for bounds in found], [bounds.max_lr for bounds in found]
        return all(max(bound) <= _SAME * min(bound) for bound in both)
