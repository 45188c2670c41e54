"""What to measure next, until there is a reading: the policy of a range test, as a conversation.

A search is a generator. It yields a plan, is sent the curve that was recorded, and returns a reading::

    def my_search(settings):
        curve = yield SweepPlan(settings.min_lr, settings.max_lr, settings.num_steps)
        return Reading(LRBounds(0.001, 0.1), Outcome.FOUND)

It knows neither torch nor Lightning. ``LRRangeTest(search=my_search)`` takes it in place of :func:`default_search`.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TypeAlias

from lightning_clr.bounds import LRBounds
from lightning_clr.curve import Curve
from lightning_clr.plan import SweepPlan
from lightning_clr.reading import Outcome, Reading, marks_of, read
from lightning_clr.second_sweep import second_plan
from lightning_clr.settings import FEWEST_POINTS, Settings
from lightning_clr.valley import Valley

Conversation: TypeAlias = Generator[SweepPlan, Curve, Reading]
Search: TypeAlias = Callable[[Settings], Conversation]

_USUAL_MAX_LR = Settings.max_lr
_UTMOST_LR = 1000.0
"""Up to where a sweep goes on that was not told where to end: plain SGD on a scaled loss may learn at 100."""


def default_search(settings: Settings) -> Conversation:
    """One sweep, and a second, slower one where the first hardly rises above its noise.

    A sweep goes on beyond its end while its loss still improves there, or has not moved yet. Neither is done where a
    sweep may not end early, nor on a linear one; a second is too dear where each value takes a validation run.
    """
    may_end_early = settings.mode == "exponential" and settings.stop_factor is not None
    utmost_lr = _UTMOST_LR if settings.max_lr == _USUAL_MAX_LR else settings.max_lr
    goes_on_to = utmost_lr if may_end_early else None
    first, reading = yield from _sweep(SweepPlan.first(settings), goes_on_to)
    if settings.closer_look and may_end_early and not first.validated:
        plan = second_plan(first, settings, utmost_lr)
        if plan is not None:
            _, reading = yield from _sweep(plan, goes_on_to, first)
    return reading


def _sweep(
    plan: SweepPlan, goes_on_to: float | None, *before: Curve
) -> Generator[SweepPlan, Curve, tuple[Curve, Reading]]:
    """One sweep, which goes on if its end tells nothing yet; returns its curve and what all curves say."""
    curve = yield plan
    reading = read([*before, curve])
    if goes_on_to is not None and reading.outcome in (Outcome.STILL_IMPROVING, Outcome.NO_CLEAR_IMPROVEMENT):
        curve = yield plan.extended(goes_on_to)
        reading = read([*before, curve])
    return curve, reading


def smith_search(settings: Settings) -> Conversation:
    """Smith's two points (2017, section 3.3): where the value begins to improve, and where that slows down.

    One sweep and no safety margin. He reads a linear sweep of the accuracy: ``LRRangeTest(search=smith_search,
    mode="linear", min_lr=0.001, max_lr=0.02, monitor="val_acc", monitor_mode="max")``.
    """
    curve = yield SweepPlan.first(settings)
    valley = Valley(curve)
    if valley.clarity < 1 or valley.starts >= valley.slows:
        reason = "the curve does not show where learning begins and where it slows down: take more steps"
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
