"""What recorded curves say: both bounds of a cycle, or why they do not tell them."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lightning_clr.bounds import LRBounds
from lightning_clr.curve import Curve
from lightning_clr.roughness import onset_of_roughness
from lightning_clr.settings import FEWEST_POINTS
from lightning_clr.valley import Valley, valleys

CLEAR = 3.0
"""Improvement, in units of what noise could feign, that needs no second sweep. Of the benchmark's rows: a second sweep
always 0.035 mean regret, none 0.049, below this 0.019."""
FAINT = 1.5
"""The same, below which the last sweep is taken for one that learns nothing: chosen on ``dev``."""
_BELOW_FLOOR = 3.5
"""Upper end of the floor over ``max_lr``: a schedule stays longer at a learning rate than a sweep. Of the benchmark's
rows: over 3 and over 4, 0.027 mean regret; over 3.5, 0.026."""
_BELOW_RISE = 2.0
"""Start of the final rise over ``max_lr``. On a quadratic of curvature a, the limit of stability 2 / a over the best
constant rate 1 / a."""
_BELOW_SLOWDOWN = 2.0
"""Where a linear sweep slows down over ``max_lr``: a sweep of a hundred steps learns later than a training does. Of the
benchmark's rows: that point 0.118 mean regret, half of it 0.021, a third 0.029."""
_BELOW_ROUGH = 2.0
"""Where training becomes as rough as the data over ``max_lr``. Of the benchmark's rows: half 0.026, a third and two
thirds 0.032."""
LEAST_RATIO = 10.0
"""``max_lr`` over ``base_lr`` at the least. Smith has three or four (2017, section 3.3). Of the benchmark's tasks, at
the best ``max_lr``: 1cycle with ratios of 2, 4, 8, 25, 100 loses 0.015, 0.016, 0.002, -0.002, 0.002 of the gain, four
cycles 0.036, 0.026, 0.016, 0.015, 0.017."""
A_TENTH = "a tenth of max_lr"


class Outcome(enum.Enum):
    """How a range test has ended."""

    FOUND = "found"
    TOO_FEW_POINTS = "too few points"
    STILL_IMPROVING = "still improving"
    IMPROVED_FROM_THE_START = "improved from the start"
    NO_CLEAR_IMPROVEMENT = "no clear improvement"
    DOES_NOT_HOLD = "does not hold"


@dataclass(frozen=True)
class Marks:
    """What a reading rests on, for the picture; ``None`` or empty where it played no part.

    Args:
        sweep: Which curve was read, counted from 0.
        untrained: The value before anything was learned.
        floor: The value up to which the curve is at its floor.
        floor_lrs: The learning rates between which it is, ``(lowest, highest)``.
        rough_lr: The learning rate from which on training is rougher than the data.
        base_lr: Where ``base_lr`` comes from, in a few words for people.
        max_lr: Where ``max_lr`` comes from.
    """

    sweep: int = 0
    untrained: float | None = None
    floor: float | None = None
    floor_lrs: tuple[float, float] | None = None
    rough_lr: float | None = None
    base_lr: str = ""
    max_lr: str = ""


@dataclass(frozen=True)
class Reading:
    """What curves say.

    Args:
        bounds: Both bounds, or ``None`` if the curves do not tell them.
        outcome: How it ended; code asks for this.
        reason: Why there are no bounds, in plain words for people; empty if there are.
        marks: What it rests on.
        doubt: Factor below and above ``max_lr`` within which, in some nine of ten tests, a learning rate lies that
            loses no more than a hundredth of what the best one brings; ``None`` if that has not been measured.
    """

    bounds: LRBounds | None
    outcome: Outcome
    reason: str = ""
    marks: Marks = Marks()
    doubt: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where ``max_lr`` may well lie, ``(lowest, highest)``; ``None`` if there is none, or nobody knows."""
        if self.bounds is None or self.doubt is None:
            return None
        return self.bounds.max_lr / self.doubt, self.bounds.max_lr * self.doubt


def read(curves: Sequence[Curve]) -> Reading:
    """Both bounds of a cycle, or the reason why the curves do not tell them.

    Args:
        curves: That of the first sweep, and that of the second if there was one.

    The cases, in order:

    1. Fewer than ten finite values in the first sweep are too few.
    2. A valley, of the first sweep if it is clear, and otherwise of the last one if that is not too faint, is read:
       ``max_lr`` is two sevenths of where the floor of the smoothed curve ends, since a schedule stays longer at a
       learning rate than a sweep does, and at most half of where an unbroken final rise starts. ``base_lr`` is where a
       tenth of the improvement has happened, so where learning starts to show, and at most ``max_lr / 10``. A linear
       sweep, Smith's original, is read as he does: ``base_lr`` where it begins to rise, ``max_lr`` half of where it
       slows down, however long it stays flat after that.
    3. Deep plain nets may learn nothing in a sweep, and yet learn just below the learning rates that make their loss
       rough: ``max_lr`` is half of where the steps of training move the loss as much as the choice of the batch does.
    4. A first sweep that improves a little more than its noise could feign is read as in case 2 after all.
    5. Otherwise nothing has happened that noise could not feign.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> reading = read([Curve(lrs, [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs])])
        >>> round(reading.bounds.base_lr, 4), round(reading.bounds.max_lr, 4)
        (0.002, 0.0397)
        >>> read([Curve(lrs, [2.0 - 0.01 * step for step in range(60)])]).outcome
        <Outcome.STILL_IMPROVING: 'still improving'>
    """
    first_curve = curves[0]
    if len(first_curve.losses) < FEWEST_POINTS:  # 1
        return Reading(None, Outcome.TOO_FEW_POINTS, _too_few(first_curve))
    first, *_ = seen = valleys(curves)
    decisive = 0 if first.clarity >= CLEAR else len(seen) - 1
    if seen[decisive].clarity >= FAINT:  # 2
        reading = read_valley(seen[decisive], decisive)
        if decisive == 0 or reading.outcome in (Outcome.FOUND, Outcome.STILL_IMPROVING):
            return reading
    rough_lr = onset_of_roughness(curves)
    if rough_lr is not None:  # 3
        max_lr = rough_lr / _BELOW_ROUGH
        (untrained,) = first.curve.turned([first.untrained])
        marks = Marks(
            len(seen) - 1,
            untrained,
            rough_lr=rough_lr,
            base_lr=A_TENTH,
            max_lr="half of where training is as rough as the data",
        )
        return Reading(LRBounds(max_lr / LEAST_RATIO, max_lr), Outcome.FOUND, marks=marks)
    if first.clarity >= 1:  # 4
        return read_valley(first)
    return Reading(None, Outcome.NO_CLEAR_IMPROVEMENT, _nothing_learned(curves))  # 5


def _too_few(curve: Curve) -> str:
    number = len(curve.losses)
    if number == 0:
        return "the value of the very first step is not finite: look for NaN in the data and in the model"
    return (
        f"only {number} finite {'value was' if number == 1 else 'values were'} recorded, and at least {FEWEST_POINTS}"
        " are needed: start from a smaller `min_lr`, or raise `num_steps`"
    )


def _nothing_learned(curves: Sequence[Curve]) -> str:
    if len({loss for curve in curves for loss in curve.losses}) == 1:
        return "the curve is the same at every learning rate: does it depend on the weights that are trained?"
    return (
        "the curve did not improve clearly beyond its noise at any learning rate up to"
        f" {max(curve.lrs[-1] for curve in curves):.2g}: raise `max_lr` if that is too low, or else `budget`"
    )


def read_valley(valley: Valley, sweep: int = 0) -> Reading:
    """The bounds of a curve that has improved, case 2 of :func:`read`; ``sweep`` counts the curves from 0."""
    curve, lrs = valley.curve, valley.curve.lrs
    marks = marks_of(valley, sweep)
    if valley.is_open:
        reason = f"the curve was still improving at the largest learning rate, {lrs[valley.best]:.2g}: raise `max_lr`"
        return Reading(None, Outcome.STILL_IMPROVING, reason, marks)
    if curve.mode == "linear":
        max_lr, origin = lrs[valley.slows] / _BELOW_SLOWDOWN, "half of where the curve slows down"
    else:
        max_lr, origin = lrs[valley.floor_ends] / _BELOW_FLOOR, f"the end of the floor / {_BELOW_FLOOR}"
    stable_lr = lrs[valley.final_rise] / _BELOW_RISE
    if stable_lr < max_lr:
        max_lr, origin = stable_lr, "half of where the last rise starts"
    if max_lr <= lrs[0]:
        reason = f"the curve improved from the very start: begin below `min_lr`={lrs[0]:.2g}"
        return Reading(None, Outcome.IMPROVED_FROM_THE_START, reason, marks)
    shows, most = lrs[valley.starts], max_lr / LEAST_RATIO
    marks = replace(marks, base_lr="learning shows" if shows <= most else A_TENTH, max_lr=origin)
    return Reading(LRBounds(min(shows, most), max_lr), Outcome.FOUND, marks=marks)


def marks_of(valley: Valley, sweep: int = 0) -> Marks:
    """What a valley shows; ``sweep`` counts the curves from 0."""
    untrained, floor = valley.curve.turned([valley.untrained, valley.floor])
    return Marks(sweep, untrained, floor, plateau(valley))


def plateau(valley: Valley) -> tuple[float, float]:
    """The learning rates between which a curve is at its best.

    From where nine tenths of the improvement have happened up to where a twentieth of it is lost again. A long one, as
    Smith's curves of super-convergence have, has no best point that would mean anything.

    Example:
        >>> lrs = [step / 100 for step in range(1, 101)]
        >>> accuracies = [min(lr / 0.2, 0.8, 2.4 - 2 * lr) for lr in lrs]
        >>> plateau(Valley(Curve(lrs, accuracies, "max", "linear")))
        (0.19, 0.78)
    """
    lrs = valley.curve.lrs
    return lrs[valley.slows], lrs[valley.floor_ends]
