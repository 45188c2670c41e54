"""What to measure next, until there is a reading: the policy of a range test, as a conversation.

A search is a generator. It yields a plan, is sent what was recorded, and returns a reading::

    def my_search(settings):
        curve = yield SweepPlan(settings.min_lr, settings.max_lr, settings.sweep_steps)
        return Reading(LRBounds(0.001, 0.1), Outcome.FOUND)

It is sent a :class:`~lightning_clr.curve.Curve` for a :class:`~lightning_clr.plan.SweepPlan`, and a
:class:`~lightning_clr.short_runs.ShortRun` for a :class:`~lightning_clr.plan.ShortRunPlan`. It knows neither torch nor
Lightning. ``LRRangeTest(search=my_search)`` takes it in place of :func:`default_search`.
"""

import math
import statistics
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from lightning_clr.bounds import LRBounds
from lightning_clr.budget import HOLD_JUDGED, HOLD_STEPS, Budget
from lightning_clr.curve import Curve
from lightning_clr.plan import Plan, ShortRunPlan, SweepPlan
from lightning_clr.reading import A_TENTH, LEAST_RATIO, Marks, Outcome, Reading, marks_of, read
from lightning_clr.roughness import onset_of_roughness
from lightning_clr.second_sweep import second_plan
from lightning_clr.settings import FEWEST_POINTS, Settings
from lightning_clr.short_runs import ShortRuns
from lightning_clr.valley import Valley

Conversation: TypeAlias = Generator[Plan, Any, Reading]
Search: TypeAlias = Callable[[Settings], Conversation]

_USUAL_MAX_LR = Settings.max_lr
_UTMOST_LR = 1000.0
"""Up to where a sweep goes on that was not told where to end: plain SGD on a scaled loss may learn at 100."""
_BELOW_MINIMUM = 1.5
"""Minimum of a clear sweep over the best learning rate of a short run: the median over the benchmark's tasks, with a
standard deviation of an octave."""
_BELOW_END = 32.0
"""End of a sweep that tells nothing else over where short runs start."""
_MOST_RUNS = 6
"""Short runs at the most, the untrained one left out: five strides, three decades."""
_FEW_RUNS = 4
"""Short runs below which one more looks into the gap below the first learning rate that is too high."""
_MOST_HOLDS = 4
"""How often that is tried, at half the learning rate each time."""
_DOUBT, _DOUBT_OF_SWEEPS, _DOUBT_OF_ONE_SWEEP = 2.0, 4.0, 6.0
"""See :class:`~lightning_clr.reading.Reading`: of short runs, of sweeps that were verified, and of those that were not.
Of the benchmark's tests: 88 %, 90 %, 91 %."""
_BLOWN_UP = 0.1
"""Part of the untrained level by which it is above the highest untrained loss then."""


def default_search(settings: Settings) -> Conversation:
    """A sweep tells where to look, and short trainings there tell the bounds.

    1. A sweep. It goes on beyond its end while its loss still improves there, or has not moved yet.
    2. Short runs: trainings by 1cycle of an eighth of the length, from the untrained weights and on the same batches,
       at learning rates a factor of four apart, until the best lies between two others. They see what annealing and
       a warm-up make of a learning rate, which a sweep cannot.
    3. Where they learn nothing, a second, slower sweep, see :func:`~lightning_clr.reading.read`. What it says stays
       below the learning rates at which short runs have failed, and is verified: a quick rise to it must hold.

    Only the first is done where a sweep may not end early, on a linear one, where ``closer_look`` is off, and where
    the budget leaves no steps for more.
    """
    may_end_early = settings.mode == "exponential" and settings.stop_factor is not None
    utmost_lr = _UTMOST_LR if settings.max_lr == _USUAL_MAX_LR else settings.max_lr
    goes_on_to = utmost_lr if may_end_early else None
    if not (settings.closer_look and may_end_early):
        _, reading = yield from _sweep(SweepPlan.first(settings), goes_on_to)
        return replace(reading, doubt=_DOUBT_OF_ONE_SWEEP if settings.mode == "exponential" else None)
    budget = Budget(settings)
    plan = SweepPlan.first(replace(settings, num_steps=budget.sweep_steps))
    first, reading = yield from _sweep(plan, goes_on_to, budget.total)
    left = budget.total - first.num_steps
    unreadable = reading.outcome not in (Outcome.FOUND, Outcome.NO_CLEAR_IMPROVEMENT)
    if unreadable or not budget.allows_runs(left):
        reading, left = yield from _second_sweep(first, reading, settings, left, utmost_lr)
        return (yield from _verified(reading, left + budget.spare_steps))
    valley = Valley(first)
    runs, left = yield from _short_runs(valley, settings, budget, left, utmost_lr)
    if runs.has_learned:
        return _of_runs(runs, valley, utmost_lr)
    reading, left = yield from _second_sweep(first, reading, settings, left, utmost_lr)
    return (yield from _that_holds(reading, runs, left))


def _sweep(
    plan: SweepPlan, goes_on_to: float | None, most_steps: float = math.inf, before: Sequence[Curve] = ()
) -> Generator[SweepPlan, Any, tuple[Curve, Reading]]:
    """One sweep, which goes on if its end tells nothing yet; returns its curve and what all curves say."""
    curve = yield plan
    reading = read([*before, curve])
    if goes_on_to is not None and reading.outcome in (Outcome.STILL_IMPROVING, Outcome.NO_CLEAR_IMPROVEMENT):
        curve = yield plan.extended(goes_on_to, most_steps)
        reading = read([*before, curve])
    return curve, reading


def _second_sweep(
    first: Curve, reading: Reading, settings: Settings, left: int, utmost_lr: float
) -> Generator[SweepPlan, Any, tuple[Reading, int]]:
    """The second sweep, if the first needs one and there are steps for it; what both say, and the steps left then."""
    plan = None if first.validated else second_plan(first, settings, utmost_lr, left - HOLD_STEPS)
    if plan is None:
        return reading, left
    second, reading = yield from _sweep(plan, None, before=[first])
    return reading, left - second.num_steps


def _short_runs(
    valley: Valley, settings: Settings, budget: Budget, left: int, utmost_lr: float
) -> Generator[ShortRunPlan, Any, tuple[ShortRuns, int]]:
    """Short runs around what the sweep points to, until they tell enough; also the steps that are left then."""
    first, steps, judged = valley.curve, budget.run_steps, budget.judged_steps
    if valley.clarity >= 1:
        start = first.lrs[valley.best] / _BELOW_MINIMUM
    else:
        start = onset_of_roughness([first]) or first.lrs[len(first.losses) - 1] / _BELOW_END
    untrained = yield ShortRunPlan(0.0, steps, judged)
    runs = ShortRuns(min(max(start, settings.min_lr), utmost_lr), untrained)
    left -= judged
    while untrained.is_through and len(runs) < _MOST_RUNS and left >= steps:  # else the data have a NaN themselves
        place = runs.next_place()
        if place is None or not settings.min_lr <= runs.lr(place) <= utmost_lr:
            place = runs.gap if runs.has_learned and len(runs) < _FEW_RUNS else None
        if place is None:
            break
        runs.add(place, (yield ShortRunPlan(runs.lr(place), steps, judged)))
        left -= steps
    return runs, left


def _of_runs(runs: ShortRuns, valley: Valley, utmost_lr: float) -> Reading:
    """``max_lr`` from short runs; ``base_lr`` is where learning shows in the sweep, if it does."""
    if utmost_lr < _UTMOST_LR and runs.hardly_begins_below(utmost_lr):  # the user's own limit
        reason = f"learning has hardly begun at the largest learning rate, {utmost_lr:.2g}: raise `max_lr`"
        return Reading(None, Outcome.STILL_IMPROVING, reason)
    first, is_clear = valley.curve, valley.clarity >= 1
    max_lr, origin = runs.max_lr(is_clear)
    max_lr = min(max_lr, utmost_lr)
    most = max_lr / LEAST_RATIO
    shows = first.lrs[valley.starts] if is_clear else most
    (untrained,) = first.turned([valley.untrained])
    marks = Marks(untrained=untrained, base_lr="learning shows" if shows < most else A_TENTH, max_lr=origin)
    return Reading(LRBounds(min(shows, most), max_lr), Outcome.FOUND, marks=marks, doubt=_DOUBT)


def _verified(reading: Reading, left: int) -> Conversation:
    """What sweeps alone say, if there are steps left to see whether it holds."""
    if reading.bounds is None or left < HOLD_JUDGED + HOLD_STEPS:
        return replace(reading, doubt=_DOUBT_OF_ONE_SWEEP)
    untrained = yield ShortRunPlan(0.0, HOLD_STEPS, HOLD_JUDGED)
    held = yield from _that_holds(reading, ShortRuns(reading.bounds.max_lr, untrained), left - HOLD_JUDGED)
    return replace(held, doubt=_DOUBT_OF_ONE_SWEEP)


def _that_holds(reading: Reading, runs: ShortRuns, left: int) -> Conversation:
    """What sweeps say, below where short runs have failed, and halved until a rise to it holds."""
    if reading.bounds is None:
        return reading
    if not runs.untrained.is_through:
        return replace(reading, doubt=_DOUBT_OF_ONE_SWEEP)
    highest = max(runs.untrained.losses) + _BLOWN_UP * runs.level
    max_lr = min(reading.bounds.max_lr, runs.first_failure_lr / 2)
    reason = f"no step was left to verify that training holds at {max_lr:.2g}: raise `budget`"
    for _ in range(min(_MOST_HOLDS, left // HOLD_STEPS)):
        held = yield ShortRunPlan(max_lr, HOLD_STEPS, HOLD_JUDGED, falls=False)
        if held.is_through and statistics.median(held.losses) <= highest:
            return replace(_lowered(reading, max_lr), doubt=_DOUBT_OF_SWEEPS)
        reason = f"training does not hold at {max_lr:.2g}, nor at higher learning rates that the curves suggest"
        max_lr /= 2
    return Reading(None, Outcome.DOES_NOT_HOLD, reason, reading.marks)


def _lowered(reading: Reading, max_lr: float) -> Reading:
    """The same with a lower ``max_lr``, if it is lower."""
    bounds = reading.bounds
    if bounds is None or max_lr >= bounds.max_lr:
        return reading
    marks = replace(reading.marks, max_lr="what holds")
    return replace(reading, bounds=LRBounds(min(bounds.base_lr, max_lr / LEAST_RATIO), max_lr), marks=marks)


def smith_search(settings: Settings) -> Conversation:
    """Smith's two points (2017, section 3.3): where the value begins to improve, and where that slows down.

    One sweep and no safety margin. He reads a linear sweep of the accuracy: ``LRRangeTest(search=smith_search,
    mode="linear", min_lr=0.001, max_lr=0.02, monitor="val_acc", monitor_mode="max")``.
    """
    curve = yield SweepPlan.first(settings)
    valley = Valley(curve)
    if valley.clarity < 1 or valley.starts >= valley.slows:
        reason = "the curve does not show where learning begins and where it slows down: raise `num_steps`"
        return Reading(None, Outcome.NO_CLEAR_IMPROVEMENT, reason)
    bounds = LRBounds(curve.lrs[valley.starts], curve.lrs[valley.slows])
    marks = replace(marks_of(valley), base_lr="learning begins", max_lr="it slows down")
    return Reading(bounds, Outcome.FOUND, marks=marks)


def minimum_search(settings: Settings) -> Conversation:
    """Fastai's best known rule: a tenth of the learning rate at which the smoothed loss is lowest, as ``max_lr``.

    ``base_lr`` is a twenty-fifth of it, where fastai's 1cycle starts.
    """
    curve = yield SweepPlan.first(settings)
    if len(curve.losses) < FEWEST_POINTS:
        return Reading(None, Outcome.TOO_FEW_POINTS, "the sweep has diverged at once: start from a smaller min_lr")
    valley = Valley(curve)
    max_lr = curve.lrs[valley.best] / 10
    marks = replace(marks_of(valley), base_lr="max_lr / 25", max_lr="the lowest point / 10")
    return Reading(LRBounds(max_lr / 25, max_lr), Outcome.FOUND, marks=marks)
