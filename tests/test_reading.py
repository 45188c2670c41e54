"""What is read off curves with a known answer."""

import math
import random
import statistics

import pytest

from lightning_clr.curve import Curve
from lightning_clr.reading import Outcome, read
from lightning_clr.second_sweep import Settled, second_range

LRS = [10 ** (step / 10 - 5) for step in range(60)]  # 1e-5 to 7.9, ten steps a decade


def valley(noise=0.0, seed=0):
    """Falls from 2 around lr = 0.01, and rises with lr itself."""
    rng = random.Random(seed)
    return [2 / (1 + (lr / 0.01) ** 2) + 3 * lr**2 + rng.gauss(0, noise) for lr in LRS]


def reading(values, *second, lrs=LRS, **kind):
    """What one sweep says, or two."""
    return read([Curve(lrs, values, **kind), *(Curve(*curve, **kind) for curve in second)])


def test_bounds_lie_on_the_slope_of_a_valley():
    found = reading(valley())
    bounds = found.bounds

    assert (found.outcome, found.reason) == (Outcome.FOUND, "")
    assert 1e-3 < bounds.base_lr < 0.01 < bounds.max_lr < 0.2


def test_noise_moves_the_bounds_little():
    """A noise of five hundredths of the depth moves max_lr by less than a factor of three over fifty seeds."""
    found = [reading(valley(noise=0.1, seed=seed)).bounds.max_lr for seed in range(50)]

    assert max(found) / min(found) < 3


def test_higher_is_better_mirrors_lower_is_better():
    mirrored = [-value for value in valley(0.1)]

    assert reading(mirrored, monitor_mode="max").bounds == reading(valley(0.1)).bounds


def test_level_and_scale_of_the_loss_do_not_matter():
    lifted = [100 + 8 * value for value in valley(0.1)]

    assert reading(lifted).bounds.max_lr == pytest.approx(reading(valley(0.1)).bounds.max_lr)


SAYS_NO = {
    "constant": ([4.0] * 60, Outcome.NO_CLEAR_IMPROVEMENT, "the same at every learning rate"),
    "noise": (
        [2 + random.Random(step).gauss(0, 0.1) for step in range(60)],
        Outcome.NO_CLEAR_IMPROVEMENT,
        "did not improve clearly",
    ),
    "still falling": ([2 - step / 100 for step in range(60)], Outcome.STILL_IMPROVING, "largest learning rate, 7.9"),
    "falls from the start": (
        [2 + 3 * lr for lr in LRS[:20]] + [9.0] * 40,
        Outcome.NO_CLEAR_IMPROVEMENT,
        "did not improve clearly",
    ),
    "NaN at once": ([2.0] * 5 + [math.nan], Outcome.TOO_FEW_POINTS, "only 5 finite values"),
    "infinite": ([math.inf], Outcome.TOO_FEW_POINTS, "value of the very first step is not finite"),
    "NaN at the second": ([2.0, math.nan], Outcome.TOO_FEW_POINTS, "only 1 finite value was"),
    "only rising": ([2 + step**2 / 100 for step in range(60)], Outcome.NO_CLEAR_IMPROVEMENT, "did not improve"),
}


@pytest.mark.parametrize(("values", "outcome", "reason"), SAYS_NO.values(), ids=SAYS_NO.keys())
def test_says_no_and_why(values, outcome, reason):
    found = reading(values, lrs=LRS[: len(values)])

    assert found.bounds is None
    assert found.outcome is outcome
    assert reason in found.reason


def test_curve_that_improves_from_the_start_has_its_bounds_below_it():
    found = reading([10.0, 10.0, 10.0, *(0.1 * step for step in range(57))])

    assert (found.bounds, found.outcome) == (None, Outcome.IMPROVED_FROM_THE_START)
    assert "begin below `min_lr`=1e-05" in found.reason


def test_second_sweep_that_ends_at_once_leaves_what_the_first_says():
    """Its few points tell nothing."""
    doubtful = valley(noise=2.0)

    assert reading(doubtful, (LRS[:1], [math.nan])).bounds == reading(doubtful, (LRS[:3], [2.0, 2.1, math.nan])).bounds


def test_marks_tell_what_the_bounds_rest_on():
    """At the untrained level nothing is learned yet, and max_lr is a fixed part of the end of the floor."""
    marks, bounds = (found := reading(valley(0.1))).marks, found.bounds

    assert marks.untrained == pytest.approx(2.0, abs=0.1)
    assert 0 < marks.floor < 0.5
    assert marks.floor_lrs[1] == pytest.approx(3.5 * bounds.max_lr)
    assert (marks.base_lr, marks.max_lr, marks.rough_lr) == ("learning shows", "the end of the floor / 3.5", None)


def test_marks_of_a_flat_curve_are_where_it_turns_rough():
    found = reading(plateau(LRS, 0.1, 3))

    assert found.marks.rough_lr == pytest.approx(2 * found.bounds.max_lr)
    assert found.marks.floor_lrs is None


def plateau(lrs, onset, seed):
    """Never learns: noise of 0.01 from the batches, and as much again from training at lr = onset."""
    rng = random.Random(seed)
    return [2.3 + rng.gauss(0, 0.01) + abs(rng.gauss(0, 0.01)) * lr / onset for lr in lrs]


def test_flat_curve_that_turns_rough_is_read_half_way_to_the_onset_of_roughness():
    """Where it is found, for nine seeds of ten within a factor of three, in the middle over all of them."""
    all_bounds = [reading(plateau(LRS, 0.1, seed)).bounds for seed in range(50)]
    found = sorted(bounds.max_lr for bounds in all_bounds if bounds)

    assert len(found) >= 48
    assert 0.05 / 3 < found[5] < found[-5] < 0.05 * 3
    assert statistics.median(found) == pytest.approx(0.05, rel=0.3)


NOISE = {
    "normal": lambda rng: 2 + rng.gauss(0, 0.1),
    "log-normal": lambda rng: math.exp(rng.gauss(0, 0.5)),
    "squares": lambda rng: 1 + rng.gauss(0, 0.5) ** 2,
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE.keys())
def test_noise_alone_has_no_bounds(noise):
    """However far some of its values are from the others; at most three times in sixty."""
    lrs = [10 ** (step / 14 - 6) for step in range(100)]
    curves = [[noise(rng) for _ in lrs] for rng in map(random.Random, range(60))]

    assert sum(reading(curve, lrs=lrs).bounds is not None for curve in curves) <= 3


def test_second_sweep_makes_the_onset_surer():
    """Half the spread from five times the points."""

    def spread(second):
        all_bounds = [reading(plateau(LRS, 0.1, seed), *second(seed)).bounds for seed in range(30)]
        return statistics.stdev(math.log(bounds.max_lr) for bounds in all_bounds if bounds)

    slow = [10 ** (step / 90 - 2) for step in range(240)]

    assert spread(lambda seed: [(slow, plateau(slow, 0.1, seed + 100))]) < 0.5 * spread(lambda seed: [])


def test_second_sweep_is_for_curves_that_hardly_rise_above_their_noise():
    """From a twelfth of the onset to fifty times it."""
    lowest, highest = second_range(Curve(LRS, plateau(LRS, 0.1, 2)))

    assert second_range(Curve(LRS, valley(0.1))) is None
    assert second_range(Curve(LRS, [2.0] * 60)) is None
    assert highest / lowest == pytest.approx(600)
    assert 0.05 / 12 < lowest < 0.2 / 12


def test_doubtful_curve_is_read_from_its_clear_second_sweep():
    """The first sweep drowns in noise, the second shows the valley."""
    doubtful = valley(noise=2.0)
    clear = valley(noise=0.05)

    found = reading(doubtful, (LRS, clear))

    assert second_range(Curve(LRS, doubtful)) is not None
    assert found.bounds.max_lr == pytest.approx(reading(clear).bounds.max_lr, rel=0.3)
    assert found.marks.sweep == 1


def smith(lr, noise, rng):
    """An accuracy as in Smith's figures: rises from lr = 0.001, slows at 0.006, stays flat to 0.02, then falls."""
    level = 0.1 + 0.6 * min(1.0, max(0.0, (lr - 0.001) / 0.005))
    return level - 20 * max(0.0, lr - 0.02) + rng.gauss(0, noise)


SLOW_LRS = [10 ** (step / 100 - 3.5) for step in range(400)]  # 3e-4 to 3, a hundred steps a decade


def settles(values):
    """The number of steps after which a second sweep with these values may end; ``None`` if it has to go on."""
    is_settled = Settled(Curve(LRS, valley(0.6)), 400)
    return next((end for end in range(1, 401) if is_settled(Curve(SLOW_LRS[:end], values[:end]))), None)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_second_sweep_settles_when_more_steps_would_not_move_the_bounds(noise):
    """Behind both bounds, which are those of the whole sweep."""
    rng = random.Random(0)
    values = [2 / (1 + (lr / 0.01) ** 2) + 3 * lr**2 + rng.gauss(0, noise) for lr in SLOW_LRS]
    end = settles(values)
    found = reading(valley(0.6), (SLOW_LRS[:end], values[:end])).bounds
    whole = reading(valley(0.6), (SLOW_LRS, values)).bounds

    assert end < 400
    assert SLOW_LRS[end - 1] > 3 * found.max_lr
    assert (found.base_lr, found.max_lr) == pytest.approx((whole.base_lr, whole.max_lr), rel=0.1)


@pytest.mark.parametrize("turn", [0.03, 0.1, 0.3])
def test_second_sweep_does_not_settle_on_a_terrace(turn):
    """The curve falls, halts, and falls on: the way down has not ended before the second fall."""
    values = [1 / (1 + (lr / 0.001) ** 2) + 1 / (1 + (lr / turn) ** 4) for lr in SLOW_LRS]
    end = settles(values)

    assert end is None or SLOW_LRS[end - 1] > turn


def test_second_sweep_does_not_settle_before_it_has_turned():
    assert settles([2 - step / 1000 for step in range(400)]) is None


@pytest.mark.parametrize("ends", [0.012, 0.02, 0.04], ids=["flat at the end", "long plateau", "falls"])
def test_linear_accuracy_sweep_is_read_as_smith_does(ends):
    """max_lr is half of where the accuracy slows down, however long it stays flat after that."""
    rng = random.Random(4)
    lrs = [ends * (step + 1) / 100 for step in range(100)]
    accuracies = [smith(lr, 0.01, rng) for lr in lrs]
    bounds = reading(accuracies, lrs=lrs, monitor_mode="max", mode="linear").bounds

    assert 0.0022 < bounds.max_lr < 0.004
    assert 0 < bounds.base_lr <= bounds.max_lr / 4


def test_linear_sweep_that_is_still_rising_is_declined():
    """Its end is no bound."""
    lrs = [0.005 * (step + 1) / 100 for step in range(100)]
    rng = random.Random(4)

    accuracies = [smith(lr, 0.01, rng) for lr in lrs]

    assert reading(accuracies, lrs=lrs, monitor_mode="max", mode="linear").outcome is Outcome.STILL_IMPROVING


def test_unbroken_final_rise_limits_max_lr():
    """Without noise the loss stays tiny long after it has begun to rise, at lr = 0.01; half of that is the most."""
    values = [abs(lr - LRS[30]) + (2.0 if lr < LRS[25] else 0.0) for lr in LRS[:40]]

    assert reading(values, lrs=LRS[:40]).bounds.max_lr <= 0.005
