"""Searches for tests that need a certain conversation, whatever the default search makes of it."""

from lightning_clr.plan import ShortRunPlan, SweepPlan
from lightning_clr.reading import read
from lightning_clr.second_sweep import second_plan


def two_sweeps(settings):
    """A sweep and the second, slower one, four times as long, if the first needs one."""
    first = yield SweepPlan.first(settings)
    plan = second_plan(first, settings, 1000.0, 4 * settings.sweep_steps)
    if plan is None:
        return read([first])
    second = yield plan
    return read([first, second])


def sweep_and_short_runs(settings):
    """One of all that a trial carries out: a sweep, the untrained network, a short run, and one that stays up."""
    first = yield SweepPlan.first(settings)
    yield ShortRunPlan(0.0, 5, 2)
    yield ShortRunPlan(settings.max_lr / 20, 5, 2)
    yield ShortRunPlan(settings.max_lr / 20, 3, 1, falls=False)
    return read([first])
