"""What a range test measures next, on curves made up here: nothing is trained."""

import itertools
import math
import random

import pytest

from lightning_clr.budget import Budget
from lightning_clr.curve import Curve
from lightning_clr.plan import ShortRunPlan, SweepPlan
from lightning_clr.reading import Outcome
from lightning_clr.search import default_search, minimum_search, smith_search
from lightning_clr.settings import Settings
from lightning_clr.short_runs import ShortRun


def lrs_of(plan):
    """The learning rate of each step of a plan."""
    places = [step / (plan.num_steps - 1) for step in range(plan.num_steps)]
    if plan.mode == "linear":
        return [plan.min_lr + place * (plan.max_lr - plan.min_lr) for place in places]
    return [plan.min_lr * (plan.max_lr / plan.min_lr) ** place for place in places]


def converse(search, *losses, run=None, **settings):
    """All plans of a search that measures ``loss(lr)``, of its own for each new sweep, and what it returns.

    A short run measures ``run(lr)``, with the noise of its batches; by default the first loss.
    """
    settings = Settings(**settings)
    conversation, plans, answer = search(settings), [], None
    while True:
        try:
            plan = next(conversation) if answer is None else conversation.send(answer)
        except StopIteration as end:
            return plans, end.value
        plans.append(plan)
        if isinstance(plan, SweepPlan):
            sweep = sum(not plan.goes_on for plan in sweeps(plans)) - 1
            answer = recorded(plan, losses[min(sweep, len(losses) - 1)], settings)
        else:
            answer = judged(plan, run or losses[0], settings)


def sweeps(plans):
    return [plan for plan in plans if isinstance(plan, SweepPlan)]


def short_runs(plans):
    """Those that train."""
    return [plan for plan in plans if isinstance(plan, ShortRunPlan) and plan.max_lr]


def steps_of(plans):
    """Optimizer steps at the most, those of the untrained network included."""
    new = [plan for plan, more in zip(plans, [*plans[1:], None], strict=True) if not getattr(more, "goes_on", False)]
    return sum(plan.num_steps - getattr(plan, "num_skipped", 0) for plan in new)


def judged(plan, run, settings):
    """What a short run records: the same batches in all of them, and what each makes of them."""
    batches, own = random.Random(7), random.Random(plan.max_lr)
    values = [run(plan.max_lr) + batches.gauss(0, 0.1) + own.gauss(0, 0.02) for _ in range(plan.num_judged)]
    return ShortRun(plan.max_lr, values, plan.num_steps, settings.monitor_mode, plan.falls)


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


def annealed(lr, at=0.05):
    """What short trainings bring: most at ``at``, more than a sweep shows."""
    return 2 - 1.8 / (1 + 0.15 * math.log(max(lr, 1e-9) / at, 4) ** 2)


def test_short_runs_follow_the_sweep_until_the_best_lies_between_two_others():
    plans, reading = converse(default_search, bowl, run=annealed, training_steps=360)
    first, untrained, *runs = plans
    lrs = sorted(run.max_lr for run in runs)

    assert first == SweepPlan(1e-6, 10.0, 60)
    assert (untrained.max_lr, untrained.num_steps, untrained.num_judged) == (0.0, 45, 9)
    assert {(run.num_steps, run.num_judged, run.falls) for run in runs} == {(45, 9, True)}
    assert 3 <= len(runs) <= 6
    best = min(lrs, key=annealed)
    assert lrs[0] < best < lrs[-1]
    assert reading.outcome is Outcome.FOUND
    assert reading.bounds.max_lr == pytest.approx(1.2 * 0.05, rel=0.25)


@pytest.mark.parametrize("at", [1e-5, 1e-3, 0.1, 5.0])
def test_short_runs_go_wherever_the_best_is(at):
    """However far the sweep's lowest point is off, here a factor of four and on."""
    plans, reading = converse(default_search, lambda lr: bowl(lr, at=at / 4), run=lambda lr: annealed(lr, at))

    assert reading.bounds.max_lr == pytest.approx(1.2 * at, rel=0.3)
    assert len(short_runs(plans)) <= 6


def cliff(lr, at=0.3):
    """Learns better and better up to ``at``, and not at all above."""
    return 2.0 if lr > at else 2 - 1.5 * min(1.0, (lr / at) ** 0.3)


def test_max_lr_stays_below_the_edge_of_short_runs():
    """A long training is at its edge sooner."""
    plans, reading = converse(default_search, bowl, run=cliff, training_steps=360)
    lrs = sorted(run.max_lr for run in short_runs(plans))
    edge = next(high for low, high in itertools.pairwise(lrs) if high > 0.3)

    assert edge / 3.5 / 4 < reading.bounds.max_lr < 0.3 / 2.5


def test_short_run_that_blows_up_counts_as_nothing_learned():
    plans, reading = converse(
        default_search, bowl, run=lambda lr: math.nan if lr > 0.2 else cliff(lr), training_steps=360
    )

    assert any(run.max_lr > 0.2 for run in short_runs(plans))
    assert 0.01 < reading.bounds.max_lr < 0.1


@pytest.mark.parametrize("length", [160, 200, 300, 360, 500, 1000])
@pytest.mark.parametrize("world", ["learns", "learns nothing", "blows up", "noise"])
def test_takes_no_more_steps_than_training(length, world):
    runs = {"learns": annealed, "learns nothing": lambda lr: 2.3, "blows up": lambda lr: math.nan if lr else 2.0}
    first = {"learns": bowl, "noise": noisy(lambda lr: 2.0, 0.3)}.get(world, flat())
    plans, _ = converse(default_search, first, run=runs.get(world), training_steps=length)

    assert steps_of(plans) <= length


@pytest.mark.parametrize(("length", "most"), [(1, 158), (88, 158), (140, 158), (158, 158), (300, 300), (5000, 5000)])
def test_steps_to_verify_one_sweep_are_beyond_training_only_if_that_is_short(length, most):
    budget = Budget(Settings(training_steps=length))

    assert budget.total + budget.spare_steps == most
    assert Budget(Settings(training_steps=length, budget=100)).spare_steps == 0


def test_long_training_is_not_tested_for_ever():
    plans, _ = converse(default_search, bowl, run=annealed, training_steps=10**6)

    assert plans[0].num_steps == 100
    assert steps_of(plans) <= 100 + 25 + 6 * 125


@pytest.mark.parametrize("budget", [60, 100, 155, 300])
def test_budget_is_kept(budget):
    plans, reading = converse(default_search, bowl, run=annealed, training_steps=10_000, budget=budget)

    assert steps_of(plans) <= budget
    assert reading.outcome is Outcome.FOUND
    assert bool(short_runs(plans)) == (budget >= 155)


@pytest.mark.parametrize("length", [1, 60, 150])
def test_short_training_gets_a_sweep_alone(length):
    """And a look at whether training holds there."""
    plans, reading = converse(default_search, bowl, run=lambda lr: 1.5, training_steps=length)

    assert plans[0] == SweepPlan(1e-6, 10.0, 100)
    assert [(plan.max_lr, plan.falls) for plan in plans[1:]] == [(0.0, True), (reading.bounds.max_lr, False)]
    assert reading.outcome is Outcome.FOUND


def test_sweep_of_a_short_training_that_does_not_hold_is_no_answer():
    plans, reading = converse(default_search, bowl, run=lambda lr: 100.0 if lr else 2.0, training_steps=60)

    assert (reading.bounds, reading.outcome) == (None, Outcome.DOES_NOT_HOLD)
    assert len(short_runs(plans)) >= 2
    assert steps_of(plans) <= 158


def test_short_runs_stay_within_the_limits_of_the_user():
    plans, reading = converse(default_search, bowl, run=lambda lr: annealed(lr, at=10.0), min_lr=1e-4, max_lr=0.5)

    assert max(run.max_lr for run in short_runs(plans)) <= 0.5
    assert reading.bounds.max_lr <= 1.2 * 0.5


def test_second_sweep_where_short_runs_learn_nothing():
    """Around the onset of roughness, with the steps that are left."""
    plans, reading = converse(default_search, flat(), run=lambda lr: 2.3, training_steps=500)
    _, second = [plan for plan in sweeps(plans) if not plan.goes_on]

    assert 150 < second.num_steps < 400
    assert second.max_lr / second.min_lr == pytest.approx(600)
    assert 0.1 / 36 < second.min_lr < 0.3 / 12
    assert reading.outcome is Outcome.FOUND
    assert not plans[-1].falls  # and verified


def test_what_sweeps_say_is_halved_until_training_holds():
    def run(lr):
        return 2.3 if lr < 0.03 else 40.0

    _, reading = converse(default_search, flat(), run=lambda lr: 2.3, training_steps=500)
    lower, lower_reading = converse(default_search, flat(), run=run, training_steps=500)

    assert reading.bounds.max_lr > 0.03
    assert lower_reading.bounds.max_lr < 0.03
    assert lower_reading.bounds.base_lr <= lower_reading.bounds.max_lr / 4
    assert lower[-1].max_lr == lower_reading.bounds.max_lr


def test_no_answer_where_training_holds_nowhere():
    _, reading = converse(default_search, flat(), run=lambda lr: 40.0 if lr else 2.3, training_steps=500)

    assert (reading.bounds, reading.outcome) == (None, Outcome.DOES_NOT_HOLD)
    assert "does not hold at" in reading.reason


def test_what_could_not_be_verified_is_no_answer():
    """Four short runs that blow up take all steps but six; nobody has tried what the sweep says."""
    first = noisy(bowl, 0.01)
    plans, reading = converse(default_search, first, run=lambda lr: math.nan if lr else 2.0, training_steps=160)

    assert len(short_runs(plans)) == 4
    assert (reading.bounds, reading.outcome) == (None, Outcome.DOES_NOT_HOLD)
    assert "no step was left to verify" in reading.reason


@pytest.mark.parametrize(
    ("deepest", "outcome", "said"),
    [(1.5, Outcome.FOUND, ""), (0.1, Outcome.STILL_IMPROVING, "hardly begun at the largest learning rate, 0.05")],
    ids=["learns", "hardly learns"],
)
def test_best_of_the_short_runs_may_be_at_the_limit(deepest, outcome, said):
    """Then it is the answer, unless next to nothing is learned below that limit."""
    noise = noisy(lambda lr: 2.0, 0.1)
    runs = {"run": lambda lr: 2 - deepest * (lr / 0.05) ** 0.3}
    _, reading = converse(default_search, noise, **runs, max_lr=0.05, training_steps=360)

    assert reading.outcome is outcome
    assert said in reading.reason
    assert reading.bounds is None or 0.01 <= reading.bounds.max_lr <= 0.05


def test_loss_of_zero_has_no_answer():
    reading = converse(default_search, lambda lr: 0.0, run=lambda lr: 0.0, training_steps=300)[1]

    assert reading.bounds is None


def test_nan_in_the_data_is_no_error():
    """Of a batch that the untrained network meets: what the sweep says is all there is."""
    plans, reading = converse(default_search, bowl, run=lambda lr: math.nan, training_steps=360)

    assert short_runs(plans) == []
    assert reading.outcome is Outcome.FOUND


@pytest.mark.exhaustive
def test_noise_alone_is_seldom_learning():
    """Of a sweep and of short runs on the same batches: in 96 of 100 cases it is declined, as with one sweep."""
    found = 0
    for seed in range(60):
        _, reading = converse(
            default_search,
            noisy(lambda lr: 2.0, 0.3, seed),
            run=lambda lr, seed=seed: 2.0 + 1e-9 * seed,
            training_steps=500,
        )
        found += reading.bounds is not None

    assert found <= 4


def test_metric_to_be_maximised_is_turned():
    """As long as it is validated, there is no second sweep."""
    plans, reading = converse(
        default_search,
        lambda lr: 0.1 + 0.3 * (2 - bowl(lr)),
        run=lambda lr: 2 - annealed(lr),
        monitor="val_acc",
        monitor_mode="max",
    )

    assert len(sweeps(plans)) == 1
    assert reading.bounds.max_lr == pytest.approx(1.2 * 0.05, rel=0.25)


@pytest.mark.parametrize(
    "settings",
    [{"closer_look": False}, {"stop_factor": None}, {"mode": "linear"}],
    ids=["switched off", "may not end early", "linear"],
)
def test_there_is_one_sweep_and_no_more(settings):
    plans, _ = converse(default_search, flat(), **settings)

    assert len([plan for plan in plans if not plan.goes_on]) == 1


def test_second_sweep_has_four_hundred_steps_at_most():
    plans, _ = converse(default_search, flat(), run=lambda lr: 2.3, training_steps=10**5)

    assert max(plan.num_steps for plan in sweeps(plans)) == 400


def test_sweep_that_still_improves_goes_on_at_the_same_pace():
    """Up to a hundred times the usual end, without starting again."""
    plans, reading = converse(default_search, lambda lr: bowl(lr, at=10.0), training_steps=100)
    first, more, *_ = plans

    assert more.goes_on
    assert (more.max_lr / more.min_lr) ** (1 / (more.num_steps - 1)) == pytest.approx((1e7) ** (1 / 99))
    assert 1000 / (1e7) ** (1 / 99) < more.max_lr <= 1000
    assert lrs_of(more)[:100] == pytest.approx(lrs_of(first))
    assert reading.outcome is Outcome.FOUND
    assert 1 < reading.bounds.max_lr < 100


def test_sweep_that_has_not_moved_goes_on_too():
    plans, reading = converse(default_search, lambda lr: 2.0, training_steps=100)

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
    assert "raise `num_steps`" in reading.reason


def test_minimum_is_read_as_a_tenth_of_the_lowest_point():
    plans, reading = converse(minimum_search, bowl)
    (curve,) = (recorded(plan, bowl, Settings()) for plan in plans)
    lowest = min(zip(curve.smoothed(), curve.lrs, strict=True))[1]

    assert reading.bounds.max_lr == pytest.approx(lowest / 10)
    assert reading.bounds.base_lr == pytest.approx(lowest / 250)


def test_minimum_says_no_to_a_sweep_that_diverges_at_once():
    _, reading = converse(minimum_search, lambda lr: math.nan)

    assert (reading.bounds, reading.outcome) == (None, Outcome.TOO_FEW_POINTS)
