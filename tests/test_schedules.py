"""Policies against torch, Smith's own logs and round numbers."""

import io
import math
import pickle
from dataclasses import FrozenInstanceError, fields
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lightning_clr import Cyclic, LRBounds, OneCycle, Schedule, Sweep

many = settings(max_examples=300, deadline=None, derandomize=True, database=None)

fractions = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.45, 0.5, 1.0]))
factors = st.floats(1, 1e3)
totals = st.integers(2, 400)
momenta = st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)).map(sorted)


@st.composite
def lr_bounds(draw):
    base_lr = draw(st.floats(1e-7, 10))
    return LRBounds(base_lr, base_lr * draw(factors))


def torch_follows(make_scheduler, steps):
    """Learning rates and momenta that a scheduler of torch's gives SGD, step for step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.5)
    scheduler = make_scheduler(optimizer)
    (group,) = optimizer.param_groups
    rows = [(group["lr"], group["momentum"])]
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        rows.append((group["lr"], group["momentum"]))
    return map(list, zip(*rows, strict=True))


def curve(schedule, steps, total_steps, bounds):
    return [schedule.lr(step, total_steps, bounds) for step in range(steps)]


def momentum_curve(schedule, steps, total_steps):
    return [schedule.momentum(step, total_steps) for step in range(steps)]


def falling_scale(x):
    return 1 / (1 + x)


# --- torch ------------------------------------------------------------------------------------------------------------


@many
@given(
    total=totals,
    pct=fractions,
    anneal=st.sampled_from(["cos", "linear"]),
    three_phase=st.booleans(),
    max_lr=st.floats(1e-6, 10),
    div=factors,
    final_div=st.floats(1, 1e6),
    momenta=momenta,
)
def test_one_cycle_is_torch_one_cycle_lr(total, pct, anneal, three_phase, max_lr, div, final_div, momenta):
    """Learning rate and momentum are torch's at every step of every setting that torch survives."""
    pct = pct / 2 if three_phase else pct
    assume(pct * total != 1)  # torch divides by zero
    same = {"pct_start": pct, "three_phase": three_phase, "div_factor": div, "final_div_factor": final_div}
    same |= dict(zip(("base_momentum", "max_momentum"), momenta, strict=True))
    theirs = torch_follows(lambda sgd: OneCycleLR(sgd, max_lr, total, anneal_strategy=anneal, **same), total)
    ours = OneCycle(anneal=anneal, **same)

    lrs, moments = theirs
    assert curve(ours, total, total, ours.bounds_below(max_lr)) == pytest.approx(lrs, rel=1e-14, abs=0)
    assert momentum_curve(ours, total, total) == pytest.approx(moments, rel=1e-14, abs=0)


@many
@given(
    steps=totals,
    bounds=lr_bounds(),
    up=st.integers(1, 60),
    down=st.none() | st.integers(1, 60),
    shape=st.one_of(
        st.sampled_from([{"mode": "triangular"}, {"mode": "triangular2"}]),
        st.floats(0.9, 1).map(lambda gamma: {"mode": "exp_range", "gamma": gamma}),
        st.sampled_from(["cycle", "iterations"]).map(lambda mode: {"scale_fn": falling_scale, "scale_mode": mode}),
    ),
    momenta=momenta,
)
def test_cyclic_is_torch_cyclic_lr(steps, bounds, up, down, shape, momenta):
    """Learning rate and momentum are torch's at every step; torch's own phase is rounded, ours is whole numbers."""
    same = shape | {"step_size_down": down} | dict(zip(("base_momentum", "max_momentum"), momenta, strict=True))
    theirs = torch_follows(lambda sgd: CyclicLR(sgd, bounds.base_lr, bounds.max_lr, up, **same), steps)
    ours = Cyclic(step_size=up, **same)

    lrs, moments = theirs
    assert curve(ours, steps, None, bounds) == pytest.approx(lrs, rel=1e-12, abs=0)
    assert momentum_curve(ours, steps, None) == pytest.approx(moments, rel=1e-12, abs=0)


def test_the_defaults_are_torchs():
    """Whoever changes from torch's classes without arguments gets the same curves."""
    lrs, moments = torch_follows(lambda sgd: OneCycleLR(sgd, 1.0, 100), 100)
    assert curve(OneCycle(), 100, 100, OneCycle().bounds_below(1.0)) == pytest.approx(lrs, rel=1e-14, abs=0)
    assert momentum_curve(OneCycle(), 100, 100) == pytest.approx(moments, rel=1e-14, abs=0)

    _, moments = torch_follows(lambda sgd: CyclicLR(sgd, 0.1, 1.0, step_size_up=50), 100)
    assert momentum_curve(Cyclic(step_size=50), 100, None) == pytest.approx(moments, rel=1e-14, abs=0)


# --- Smith's numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "lr", "momentum"),
    [
        (100, 0.132192, 0.947073),
        (200, 0.164384, 0.944147),
        (6700, 0.0470588, 0.946078),
        (6800, 0.0119403, 0.949005),
        (6900, 0.0001, 0.949034),
        (7000, 0.0001, 0.947571),
    ],
)
@pytest.mark.parametrize("total", [7200, 7117, 7594])
def test_smiths_log_is_reproduced(step, lr, momentum, total):
    """The values in Smith's training log on CIFAR, to the digits printed (Caffe computes in float32)."""
    smith = OneCycle(anneal="smith", pct_start=3417 / total, final_div_factor=1000)

    assert smith.lr(step, total, LRBounds(0.1, 1.2)) == pytest.approx(lr, rel=5e-6, abs=1e-7)
    assert smith.momentum(step, total) == pytest.approx(momentum, abs=6e-7)


@pytest.mark.parametrize(("step", "lr"), [(200, 0.115973), (8000, 0.00119905), (8200, 8e-5)])
def test_smiths_log_with_other_bounds_is_reproduced(step, lr):
    """A second log: 0.08 to 0.8, half a cycle of 4003 steps."""
    smith = OneCycle(anneal="smith", pct_start=4003 / 8300, final_div_factor=1000)

    assert smith.lr(step, 8300, LRBounds(0.08, 0.8)) == pytest.approx(lr, rel=5e-6, abs=1e-7)


def test_smiths_tail_starts_with_the_end_of_the_cycle():
    """The step at twice the step size already has the tail's learning rate, as in the ImageNet logs."""
    smith = OneCycle(anneal="smith", pct_start=0.375, final_div_factor=1000)

    assert smith.lr(150_000, 200_000, LRBounds(0.05, 1.0)) == 5e-5


def test_smiths_peak_is_on_a_whole_step():
    """Rounding in ``pct_start * total_steps`` does not cut a step off the rise: 0.29 * 100 < 29."""
    smith = OneCycle(anneal="smith", pct_start=0.29)

    assert smith.lr(29, 100, LRBounds(0.1, 1.0)) == 1.0
    assert smith.momentum(29, 100) == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("decays", "lr"), [("amplitude", 1.40e-3), ("bounds", 4.8e-4)], ids=["as torch computes", "as Smith writes"]
)
def test_exp_range_has_two_readings(decays, lr):
    """With the paper's CIFAR setting the peak at iteration 42,000 differs threefold."""
    exp_range = Cyclic(step_size=2000, mode="exp_range", gamma=0.99994, decays=decays)

    assert exp_range.lr(42_000, None, LRBounds(0.001, 0.006)) == pytest.approx(lr, abs=5e-6)


# --- round numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "total", "lrs", "momenta"),
    [
        pytest.param(
            {"pct_start": 0.5, "final_div_factor": 10},
            10,
            [0.1, 0.325, 0.55, 0.775, 1.0, 0.802, 0.604, 0.406, 0.208, 0.01],
            [0.95, 0.925, 0.9, 0.875, 0.85, 0.87, 0.89, 0.91, 0.93, 0.95],
            id="two phases",
        ),
        pytest.param(
            {"pct_start": 0.3, "final_div_factor": 10, "three_phase": True},
            10,
            [0.1, 0.55, 1.0, 0.55, 0.1, 0.082, 0.064, 0.046, 0.028, 0.01],
            [0.95, 0.9, 0.85, 0.9, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95],
            id="three phases",
        ),
        pytest.param(
            {"pct_start": 0.5, "final_div_factor": 10, "three_phase": True},
            6,
            [0.1, 0.55, 1.0, 0.55, 0.1, 0.01],
            [0.95, 0.9, 0.85, 0.9, 0.95, 0.95],
            id="three phases, the last of one step",
        ),
        pytest.param(
            {"pct_start": 0.4, "final_div_factor": 10, "anneal": "smith"},
            10,
            [0.1, 0.325, 0.55, 0.775, 1.0, 0.75, 0.5, 0.25, 0.01, 0.01],
            [0.95, 0.925, 0.9, 0.875, 0.85, 0.875, 0.9, 0.925, 0.95, 0.9375],
            id="smith",
        ),
        pytest.param(
            {"pct_start": 1.0, "final_div_factor": 10},
            4,
            [0.1, 0.4, 0.7, 1.0],
            [0.95, 0.95 - 0.1 / 3, 0.95 - 0.2 / 3, 0.85],
            id="nothing but the rise",
        ),
    ],
)
def test_one_cycle_in_round_numbers(arguments, total, lrs, momenta):
    """From 0.1 to 1 and down to 0.01 in straight lines."""
    schedule = OneCycle(**{"anneal": "linear", **arguments})

    assert curve(schedule, total, total, LRBounds(0.1, 1.0)) == pytest.approx(lrs)
    assert momentum_curve(schedule, total, total) == pytest.approx(momenta)


def test_half_a_cosine_in_round_numbers():
    """Cosines of 0, 60, 90, 120 and 180 degrees."""
    schedule = OneCycle(pct_start=7 / 14, final_div_factor=10)
    risen = [schedule.lr(step, 14, LRBounds(1.0, 5.0)) for step in (0, 2, 3, 4, 6)]

    assert risen == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0])


@pytest.mark.parametrize(
    ("arguments", "lrs"),
    [
        pytest.param({"step_size": 2}, [1, 3, 5, 3, 1, 3, 5, 3, 1], id="triangular"),
        pytest.param({"step_size": 2, "mode": "triangular2"}, [1, 3, 5, 3, 1, 2, 3, 2, 1], id="triangular2"),
        pytest.param({"step_size": 1, "step_size_down": 4}, [1, 5, 4, 3, 2, 1, 5, 4, 3], id="fast up, slow down"),
        pytest.param({"step_size": 4, "step_size_down": 1}, [1, 2, 3, 4, 5, 1, 2, 3, 4], id="slow up, fast down"),
        pytest.param(
            {"step_size": 1, "mode": "exp_range", "gamma": 0.5},
            [1, 3, 1, 1.5, 1, 1.125, 1, 1.03125, 1],
            id="exp_range",
        ),
        pytest.param(
            {"step_size": 1, "mode": "exp_range", "gamma": 0.5, "decays": "bounds"},
            [1, 2.5, 0.25, 0.625, 0.0625, 0.15625, 0.015625, 0.0390625, 0.00390625],
            id="exp_range of both bounds",
        ),
        pytest.param(
            {"step_size": 1, "mode": "triangular2", "decays": "bounds"},
            [1, 5, 0.5, 2.5, 0.25, 1.25, 0.125, 0.625, 0.0625],
            id="triangular2 of both bounds",
        ),
        pytest.param({"step_size": 1, "scale_fn": falling_scale}, [1, 3, 1, 7 / 3, 1, 2, 1, 1.8, 1], id="per cycle"),
        pytest.param(
            {"step_size": 1, "scale_fn": falling_scale, "scale_mode": "iterations"},
            [1, 3, 1, 2, 1, 5 / 3, 1, 1.5, 1],
            id="per step",
        ),
        pytest.param({"cycles": 1}, [1, 2, 3, 4, 5, 4, 3, 2, 1], id="one cycle"),
        pytest.param({"cycles": 2}, [1, 3, 5, 3, 1, 3, 5, 3, 1], id="two cycles"),
        pytest.param({}, [1, 5, 1, 5, 1, 5, 1, 5, 1], id="four cycles unless told otherwise"),
    ],
)
def test_cyclic_in_round_numbers(arguments, lrs):
    """Between 1 and 5, in nine steps."""
    assert curve(Cyclic(**arguments), 9, 9, LRBounds(1, 5)) == pytest.approx(lrs)


def test_cyclic_momentum_mirrors_the_learning_rate():
    """Low at the top, high at the foot, and the amplitude shrinks with that of the learning rate."""
    schedule = Cyclic(step_size=2, mode="triangular2", base_momentum=0.5, max_momentum=0.9)

    assert momentum_curve(schedule, 9, None) == pytest.approx([0.9, 0.7, 0.5, 0.7, 0.9, 0.8, 0.7, 0.8, 0.9])


@pytest.mark.parametrize(
    ("mode", "lrs"), [("exponential", [0.01, 0.1, 1, 10, 100]), ("linear", [0.01, 25.0075, 50.005, 75.0025, 100])]
)
def test_sweep_in_round_numbers(mode, lrs):
    """A hundredth to a hundred: a factor of ten, or the same amount, at each step."""
    assert curve(Sweep(mode=mode), 5, 5, LRBounds(0.01, 100)) == pytest.approx(lrs, rel=1e-14)


@many
@given(total=totals, bounds=lr_bounds())
def test_sweep_is_torch_logspace_or_linspace(total, bounds):
    """The whole grid, by another implementation."""
    lines = torch.linspace(bounds.base_lr, bounds.max_lr, total, dtype=torch.float64).tolist()
    powers = torch.logspace(math.log10(bounds.base_lr), math.log10(bounds.max_lr), total, dtype=torch.float64).tolist()

    assert curve(Sweep(mode="linear"), total, total, bounds) == pytest.approx(lines, rel=1e-12)
    assert curve(Sweep(), total, total, bounds) == pytest.approx(powers, rel=1e-12)


@many
@given(mode=st.sampled_from(["exponential", "linear"]), total=totals, bounds=lr_bounds())
def test_sweep_hits_both_ends_exactly(mode, total, bounds):
    """Not to rounding: the very numbers, and the last is held."""
    sweep = Sweep(mode=mode)

    assert sweep.lr(0, total, bounds) == bounds.base_lr
    assert sweep.lr(total - 1, total, bounds) == sweep.lr(total + 7, total, bounds) == bounds.max_lr


@many
@given(total=totals, bounds=lr_bounds())
def test_an_exponential_sweep_has_a_constant_ratio(total, bounds):
    """Each learning rate is the same multiple of the one before."""
    lrs = curve(Sweep(), total, total, bounds)
    first = lrs[1] / lrs[0]

    assert [after / before for before, after in pairwise(lrs)] == pytest.approx([first] * (total - 1))


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_a_sweep_of_one_step_stays_below(mode):
    """The safe end of the two."""
    assert Sweep(mode=mode).lr(0, 1, LRBounds(0.1, 1)) == 0.1


def test_only_cycles_move_momentum():
    """A range test changes nothing but the learning rate, and momentum can be left alone on request."""
    assert Sweep().momentum(0, 10) is None
    assert OneCycle(cycle_momentum=False).momentum(0, 10) is None
    assert Cyclic(cycle_momentum=False).momentum(0, 10) is None


# --- ends and short trainings -----------------------------------------------------------------------------------------

shapes = pytest.mark.parametrize(
    ("anneal", "three_phase"),
    [("cos", False), ("linear", False), ("cos", True), ("linear", True), ("smith", False)],
    ids=["cos", "linear", "cos in three phases", "linear in three phases", "smith"],
)


@shapes
@pytest.mark.parametrize("pct_start", [0, 0.25, 0.3, 0.45, 0.5])
@pytest.mark.parametrize("total", [1, 2, 3, 4])
def test_a_very_short_one_cycle_is_sane(total, pct_start, anneal, three_phase):
    """Phases of no width are skipped: all values are between the final and the highest, and training ends low."""
    schedule = OneCycle(pct_start=pct_start, anneal=anneal, three_phase=three_phase, final_div_factor=10)
    lrs = curve(schedule, total, total, LRBounds(0.1, 1.0))

    assert 0.01 - 1e-15 <= min(lrs) <= max(lrs) <= 1.0 + 1e-15
    assert lrs[-1] == pytest.approx(0.01)
    assert all(0.85 <= momentum <= 0.95 for momentum in momentum_curve(schedule, total, total))


@shapes
@pytest.mark.parametrize("pct_start", [0.1, 0.25, 0.3, 0.45, 0.5])
def test_one_cycle_ends_on_the_final_learning_rate(pct_start, anneal, three_phase):
    """Whatever the length, the last step has ``base_lr / final_div_factor``."""
    schedule = OneCycle(pct_start=pct_start, anneal=anneal, three_phase=three_phase, final_div_factor=1000)
    bounds = LRBounds(0.5, 8.0)

    assert [schedule.lr(total - 1, total, bounds) for total in range(1, 300)] == pytest.approx([0.0005] * 299)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("total", [2, 3, 4, 97])
def test_a_rise_as_long_as_training_ends_on_the_peak(total, anneal):
    """``pct_start=1`` is a warm-up and nothing else, as in torch."""
    schedule = OneCycle(pct_start=1, anneal=anneal)

    assert schedule.lr(0, total, LRBounds(0.1, 1.0)) == pytest.approx(0.1)
    assert schedule.lr(total - 1, total, LRBounds(0.1, 1.0)) == 1.0
    assert schedule.momentum(total - 1, total) == 0.85


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("total", [2, 4, 5, 10, 20])
def test_a_rise_of_one_step_starts_at_the_peak(total, anneal):
    """``pct_start * total_steps == 1``, where torch divides by zero."""
    schedule = OneCycle(pct_start=1 / total, anneal=anneal)
    lrs = curve(schedule, total, total, LRBounds(0.1, 1.0))

    assert lrs[0] == pytest.approx(1.0)
    assert lrs == sorted(lrs, reverse=True)
    assert lrs[-1] == pytest.approx(1e-5)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_three_phases_without_room_for_a_peak_only_fall(anneal):
    """A rise and a mirrored fall of one step each leave the fall from ``base_lr`` to the end."""
    schedule = OneCycle(pct_start=0.25, anneal=anneal, three_phase=True)
    lrs = curve(schedule, 4, 4, LRBounds(0.1, 1.0))

    assert lrs[0] == pytest.approx(0.1)
    assert lrs == sorted(lrs, reverse=True)


@pytest.mark.parametrize(
    "schedule",
    [
        OneCycle(),
        OneCycle(anneal="linear", three_phase=True),
        OneCycle(anneal="smith", pct_start=0.4),
        Cyclic(step_size=3, mode="triangular2"),
        Cyclic(cycles=3, mode="exp_range", gamma=0.9),
        Sweep(),
        Sweep(mode="linear"),
    ],
    ids=["one cycle", "three phases", "smith", "step size", "cycles", "exponential sweep", "linear sweep"],
)
@pytest.mark.parametrize("total", [1, 2, 10, 33])
def test_the_last_value_is_held(schedule, total):
    """A step beyond the end gives what the last step gave, and never raises."""
    bounds = LRBounds(0.1, 1.0)

    assert {schedule.lr(step, total, bounds) for step in (total, total + 1, 2 * total, 10**6)} == {
        schedule.lr(total - 1, total, bounds)
    }
    assert schedule.momentum(total + 1, total) == schedule.momentum(total - 1, total)


def test_without_a_total_cyclic_goes_on():
    """Training without a known end keeps cycling."""
    assert Cyclic(step_size=50).lr(10**6 + 50, None, LRBounds(0.1, 1.0)) == 1.0


@many
@given(total=st.integers(1, 5000), cycles=st.integers(1, 50), bounds=lr_bounds())
def test_whole_cycles_end_exactly_at_the_foot(total, cycles, bounds):
    """Training starts and ends on the very ``base_lr``, where accuracy peaks."""
    schedule = Cyclic(cycles=cycles)

    assert schedule.lr(0, total, bounds) == schedule.lr(total - 1, total, bounds) == bounds.base_lr
    assert schedule.momentum(total - 1, total) == 0.9


@pytest.mark.parametrize("total", [9, 17, 801])
def test_whole_cycles_are_cycles_of_the_same_step_size(total):
    """Where the step size is a whole number, both ways of giving it are one."""
    bounds = LRBounds(0.1, 1.0)
    by_size = Cyclic(step_size=(total - 1) // 8, mode="triangular2")

    assert curve(Cyclic(cycles=4, mode="triangular2"), total, total, bounds) == curve(by_size, total, total, bounds)


def test_a_long_wave_does_not_drift():
    """The foot of the millionth cycle is the foot of the first, to the last bit."""
    bounds = LRBounds(0.1, 0.7)
    schedule = Cyclic(step_size=7)

    assert {schedule.lr(14 * cycle, None, bounds) for cycle in range(0, 10**6, 997)} == {0.1}
    assert schedule.lr(14 * 10**6 + 3, None, bounds) == schedule.lr(3, None, bounds)


# --- bounds -----------------------------------------------------------------------------------------------------------


def one_cycles():
    shapes = st.sampled_from([("cos", False), ("linear", False), ("cos", True), ("linear", True), ("smith", False)])
    return st.builds(
        lambda shape, half, final: OneCycle(
            pct_start=half, anneal=shape[0], three_phase=shape[1], final_div_factor=final
        ),
        shapes,
        fractions.map(lambda fraction: fraction / 2),
        factors,
    )


@many
@given(schedule=one_cycles(), total=st.integers(1, 400), bounds=lr_bounds())
def test_one_cycle_stays_between_its_final_and_its_highest(schedule, total, bounds):
    """Positive and finite at every step; one rounding of ``max_lr`` is all the slack."""
    lrs = curve(schedule, total, total, bounds)
    slack = 2e-16 * bounds.max_lr
    lowest = bounds.base_lr / schedule.final_div_factor
    if schedule.anneal == "smith":  # falls to zero, but no step is on it
        lowest = min(lowest, bounds.max_lr / total)

    assert lowest - slack <= min(lrs)
    assert 0 < min(lrs) <= max(lrs) <= bounds.max_lr + slack
    assert all(0.85 <= momentum <= 0.95 for momentum in momentum_curve(schedule, total, total))


@many
@given(schedule=one_cycles(), total=totals, bounds=lr_bounds())
def test_one_cycle_rises_once_and_falls_once(schedule, total, bounds):
    """No step but the peak is higher than both its neighbours."""
    assume(schedule.anneal != "smith")
    lrs = curve(schedule, total, total, bounds)
    peak = lrs.index(max(lrs))
    slack = 2e-16 * bounds.max_lr

    assert all(after - before >= -slack for before, after in pairwise(lrs[: peak + 1]))
    assert all(after - before <= slack for before, after in pairwise(lrs[peak:]))


@many
@given(
    step_size=st.none() | st.integers(1, 60),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range"]),
    gamma=st.floats(0.9, 1),
    total=st.integers(1, 400),
    bounds=lr_bounds(),
)
def test_cyclic_stays_within_its_bounds(step_size, mode, gamma, total, bounds):
    """Neither below ``base_lr`` nor, but for one rounding, above ``max_lr``."""
    schedule = Cyclic(step_size=step_size, mode=mode, gamma=gamma)
    lrs = curve(schedule, total, total, bounds)

    assert min(lrs) == lrs[0] == bounds.base_lr
    assert max(lrs) <= bounds.max_lr * (1 + 3e-16)
    assert all(0.8 - 1e-15 <= momentum <= 0.9 for momentum in momentum_curve(schedule, total, total))


@many
@given(mode=st.sampled_from(["exponential", "linear"]), total=totals, bounds=lr_bounds())
def test_a_sweep_only_rises(mode, total, bounds):
    """Within both bounds and never down."""
    lrs = curve(Sweep(mode=mode), total, total, bounds)

    assert lrs == pytest.approx(sorted(lrs), rel=1e-15)
    assert bounds.base_lr <= min(lrs)
    assert max(lrs) <= bounds.max_lr * (1 + 1e-15)


@pytest.mark.parametrize(
    ("schedule", "base_lr"),
    [(OneCycle(), 0.04), (Cyclic(), 0.25), (Sweep(), 1.0), (OneCycle(div_factor=10), 0.1)],
    ids=["one cycle", "cyclic", "sweep", "div_factor 10"],
)
def test_the_lower_bound_follows_from_the_upper(schedule, base_lr):
    """``div_factor`` says how far below."""
    assert schedule.bounds_below(1.0) == LRBounds(base_lr, 1.0)


# --- values -----------------------------------------------------------------------------------------------------------

instances = pytest.mark.parametrize(
    "schedule",
    [
        OneCycle(pct_start=0.4, anneal="linear"),
        Cyclic(cycles=3),
        Cyclic(step_size=10, scale_fn=falling_scale),
        Sweep(mode="linear"),
    ],
    ids=["one cycle", "cyclic", "cyclic with a function", "sweep"],
)


@instances
def test_schedules_are_frozen(schedule):
    """Nobody changes a schedule that two schedulers share."""
    for field in fields(schedule):
        with pytest.raises(FrozenInstanceError):
            setattr(schedule, field.name, 0.5)


@instances
def test_schedules_survive_pickle(schedule):
    """As equal values with equal hashes, for processes and checkpoints."""
    copy = pickle.loads(pickle.dumps(schedule))

    assert copy == schedule
    assert copy is not schedule
    assert hash(copy) == hash(schedule)


@pytest.mark.parametrize(
    "value", [OneCycle(pct_start=0.4), Cyclic(cycles=3), Sweep(), LRBounds(0.1, 1.0)], ids=lambda v: type(v).__name__
)
def test_hyper_parameters_load_under_weights_only(value):
    """A checkpoint may hold schedules and bounds."""
    file = io.BytesIO()
    torch.save({"hyper_parameters": {"value": value}}, file)
    file.seek(0)

    assert torch.load(file, weights_only=True)["hyper_parameters"]["value"] == value


def test_schedules_are_equal_by_value():
    """Two with the same arguments are one."""
    assert {OneCycle(pct_start=0.4), OneCycle(pct_start=0.4), OneCycle(pct_start=0.5)} == {
        OneCycle(pct_start=0.4),
        OneCycle(pct_start=0.5),
    }
    assert OneCycle() != Cyclic()


class Halving(Schedule):
    """A policy of a user's: half as much at each step."""

    def lr(self, step, total_steps, bounds):
        return max(bounds.base_lr, bounds.max_lr / 2**step)


def test_a_user_writes_a_schedule_of_one_method():
    """Everything else has a default: momentum untouched, total needed, one bound is both."""
    halving = Halving()

    assert curve(halving, 5, 5, LRBounds(1.0, 8.0)) == [8.0, 4.0, 2.0, 1.0, 1.0]
    assert halving.momentum(0, 5) is None
    assert halving.needs_total_steps
    assert halving.bounds_below(3.0) == LRBounds(3.0, 3.0)


def test_a_schedule_without_a_learning_rate_is_none():
    """The one method is abstract."""
    with pytest.raises(TypeError, match="abstract"):
        Schedule()


@pytest.mark.parametrize(
    ("schedule", "needs"),
    [(OneCycle(), True), (Sweep(), True), (Cyclic(), True), (Cyclic(step_size=3), False)],
    ids=["one cycle", "sweep", "cycles", "step size"],
)
def test_only_a_step_size_makes_the_total_superfluous(schedule, needs):
    """All other policies depend on the length of training."""
    assert schedule.needs_total_steps is needs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneCycle(pct_start=1.5), r"`pct_start` must lie in \[0, 1\], got 1.5"),
        (lambda: OneCycle(pct_start=0.6, three_phase=True), "at most 0.5 when the fall is as long as the rise"),
        (lambda: OneCycle(pct_start=0.6, anneal="smith"), "at most 0.5 when the fall is as long as the rise"),
        (lambda: OneCycle(anneal="smith", three_phase=True), "with three phases"),
        (lambda: OneCycle(base_momentum=0.95, max_momentum=0.85), "`max_momentum` must lie in"),
        (lambda: OneCycle(final_div_factor=math.nan), "`final_div_factor` must be finite"),
        (lambda: Cyclic(step_size=2.5), "`step_size` must be a whole number of at least 1, got 2.5"),
        (lambda: Cyclic(step_size=math.inf), "`step_size` must be a whole number of at least 1, got inf"),
        (lambda: Cyclic(step_size=5, cycles=2), "`cycles` must be left out when `step_size` is given"),
        (lambda: Cyclic(step_size_down=5), "`step_size_down` must come with `step_size`"),
        (lambda: Sweep(mode="log"), '"exponential" or "linear"'),
        (lambda: OneCycle().lr(0, None, LRBounds(0.1, 1.0)), "`total_steps` must be known"),
        (lambda: Sweep().lr(0, 0, LRBounds(0.1, 1.0)), "`total_steps` must be at least 1"),
    ],
    ids=[
        "pct_start",
        "pct_start with three phases",
        "pct_start with smith",
        "smith with three phases",
        "momenta swapped",
        "final_div_factor nan",
        "step_size fractional",
        "step_size infinite",
        "step_size and cycles",
        "step_size_down alone",
        "mode",
        "no total",
        "total 0",
    ],
)
def test_a_bad_argument_is_named(make, message):
    """The message says which argument, the rule and the value."""
    with pytest.raises(ValueError, match=message):
        make()
