"""What a range test measures next, on curves made up here: nothing is trained."""

import math
import random

import pytest

from lightning_clr.curve import Curve
from lightning_clr.plan import SweepPlan
from lightning_clr.reading import Outcome
from lightning_clr.search import default_search, minimum_search, smith_search
from lightning_clr.settings import Settings


def lrs_of(plan):
    """The learning rate of each step of a plan."""
    places = [step / (plan.num_steps - 1) for step in range(plan.num_steps)]
    if plan.mode == "linear":
        return [plan.min_lr + place * (plan.max_lr - plan.min_lr) for place in places]
    return [plan.min_lr * (plan.max_lr / plan.min_lr) ** place for place in places]


def converse(search, *losses, **settings):
    """All plans of a search that measures ``loss(lr)``, of its own for each new sweep, and what it returns."""
    settings = Settings(**settings)
    conversation, plans, curve = search(settings), [], None
    while True:
        try:
            plan = next(conversation) if curve is None else conversation.send(curve)
        except StopIteration as end:
            return plans, end.value
        plans.append(plan)
        sweep = sum(not plan.goes_on for plan in plans) - 1
        curve = recorded(plan, losses[min(sweep, len(losses) - 1)], settings)


def recorded(plan, loss, settings):
    """The curve of a plan, up to where it diverges or the plan ends it."""
    lrs, values = [], []
    for lr in lrs_of(plan):
        lrs.append(lr)
        values.append(loss(lr))
        curve = Curve(lrs, values, settings.monitor_mode, plan.mode, validated=settings.monitor == "val_acc")
        if not math.isfinite(values[-1]) or (plan.ends_when is not None and plan.ends_when(curve)):
            break
    return curve


def bowl(lr, at=0.01):
    """Falls from 2 around lr = 0.01, and rises with lr itself."""
    return 2 / (1 + (lr / at) ** 2) + min(9.0, 3 * (lr / at / 100) ** 2)


def noisy(loss, noise, seed=0):
    rng = random.Random(seed)
    return lambda lr: loss(lr) + rng.gauss(0, noise)


def flat(seed=0):
    """Learns nothing, and is as rough as its data from lr = 0.1 on."""
    rng = random.Random(seed)
    return lambda lr: 2.3 + rng.gauss(0, 0.01) + abs(rng.gauss(0, 0.01)) * lr / 0.1


def test_clear_curve_takes_one_sweep():
    plans, reading = converse(default_search, bowl)

    assert plans == [SweepPlan(1e-6, 10.0, 100)]
    assert reading.outcome is Outcome.FOUND


def test_noisy_curve_gets_a_second_slower_sweep_around_its_onset_of_roughness():
    plans, reading = converse(default_search, flat())
    second = plans[-1]

    assert second.num_steps == 400
    assert second.max_lr / second.min_lr == pytest.approx(600)
    assert 0.1 / 36 < second.min_lr < 0.3 / 12
    assert reading.outcome is Outcome.FOUND


@pytest.mark.parametrize(("first", "second"), [(50, 200), (100, 400), (200, 400), (410, 410)])
def test_second_sweep_has_four_hundred_steps_at_most_unless_the_first_has_more(first, second):
    plans, _ = converse(default_search, flat(), num_steps=first)

    assert [plan.num_steps for plan in plans if not plan.goes_on] == [first, second]


def test_second_sweep_ends_once_its_bounds_are_settled():
    """Its plan says so: the valley stands still long before the end that was planned."""
    taken, clear = [], noisy(bowl, 0.05)
    plans, reading = converse(default_search, noisy(bowl, 1.0), lambda lr: taken.append(lr) or clear(lr))

    assert plans[-1].num_steps == 400
    assert 100 < len(taken) < 400
    assert taken[-1] > 3 * reading.bounds.max_lr


@pytest.mark.parametrize(
    "settings",
    [{"closer_look": False}, {"stop_factor": None}, {"mode": "linear"}, {"monitor": "val_acc"}],
    ids=["switched off", "may not end early", "linear", "each value takes a validation run"],
)
def test_there_is_no_second_sweep(settings):
    plans, _ = converse(default_search, flat(), **settings)

    assert len([plan for plan in plans if not plan.goes_on]) == 1


def test_sweep_that_still_improves_goes_on_at_the_same_pace():
    """Up to a hundred times the usual end, without starting again."""
    plans, reading = converse(default_search, lambda lr: bowl(lr, at=10.0))
    first, more = plans

    assert more.goes_on
    assert (more.max_lr / more.min_lr) ** (1 / (more.num_steps - 1)) == pytest.approx((1e7) ** (1 / 99))
    assert 1000 / (1e7) ** (1 / 99) < more.max_lr <= 1000
    assert lrs_of(more)[:100] == pytest.approx(lrs_of(first))
    assert reading.outcome is Outcome.FOUND
    assert 1 < reading.bounds.max_lr < 100


def test_sweep_that_has_not_moved_goes_on_too():
    plans, reading = converse(default_search, lambda lr: 2.0)

    assert [plan.goes_on for plan in plans] == [False, True]
    assert reading.outcome is Outcome.NO_CLEAR_IMPROVEMENT


@pytest.mark.parametrize("settings", [{"max_lr": 1.0}, {"stop_factor": None}, {"mode": "linear"}])
def test_sweep_that_was_told_where_to_end_ends_there(settings):
    plans, reading = converse(default_search, lambda lr: 3 - lr / 4, **settings)

    assert max(plan.max_lr for plan in plans) == settings.get("max_lr", 10.0)
    assert reading.outcome is Outcome.STILL_IMPROVING


def accuracy(lr):
    """As in Smith's figures: rises from lr = 0.001, slows at 0.006, stays flat to 0.015, then falls."""
    return 0.1 + 0.6 * min(1.0, max(0.0, (lr - 0.001) / 0.005)) - 20 * max(0.0, lr - 0.015)


SMITH = {"mode": "linear", "min_lr": 1e-5, "max_lr": 0.02, "monitor": "val_acc", "monitor_mode": "max"}


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_smith_reads_where_the_accuracy_rises_and_where_it_slows_down(noise):
    """His two points, as they are: the default search halves the second."""
    plans, reading = converse(smith_search, noisy(accuracy, noise), **SMITH)
    _, default = converse(default_search, noisy(accuracy, noise), **SMITH)

    assert plans == [SweepPlan(1e-5, 0.02, 100, "linear")]
    assert reading.bounds.base_lr == pytest.approx(0.001, abs=0.0012)
    assert reading.bounds.max_lr == pytest.approx(0.006, rel=0.25)
    assert default.bounds.max_lr == pytest.approx(reading.bounds.max_lr / 2)


def test_smith_says_no_where_nothing_rises():
    _, reading = converse(smith_search, noisy(lambda lr: 0.1, 0.01), **SMITH)

    assert (reading.bounds, reading.outcome) == (None, Outcome.NO_CLEAR_IMPROVEMENT)
    assert "take more steps" in reading.reason


def test_minimum_is_read_as_a_tenth_of_the_lowest_point():
    plans, reading = converse(minimum_search, bowl)
    (curve,) = (recorded(plan, bowl, Settings()) for plan in plans)
    lowest = min(zip(curve.smoothed(), curve.lrs, strict=True))[1]

    assert reading.bounds.max_lr == pytest.approx(lowest / 10)
    assert reading.bounds.base_lr == pytest.approx(lowest / 250)


def test_minimum_says_no_to_a_sweep_that_diverges_at_once():
    _, reading = converse(minimum_search, lambda lr: math.nan)

    assert (reading.bounds, reading.outcome) == (None, Outcome.TOO_FEW_POINTS)
