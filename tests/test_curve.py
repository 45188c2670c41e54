"""What the reader says of curves with a known answer."""

import math
import random
import statistics

import pytest

from lightning_clr.curve import Settling, closer_range, find_bounds, finite_part, smooth

LRS = [10 ** (step / 10 - 5) for step in range(60)]  # 1e-5 to 7.9, ten steps a decade


def valley(noise=0.0, seed=0):
    """Falls from 2 around lr = 0.01, and rises with lr itself."""
    rng = random.Random(seed)
    return [2 / (1 + (lr / 0.01) ** 2) + 3 * lr**2 + rng.gauss(0, noise) for lr in LRS]


def test_bounds_lie_on_the_slope_of_a_valley():
    bounds, reason = find_bounds(LRS, valley())

    assert reason == ""
    assert 1e-3 < bounds.base_lr < 0.01 < bounds.max_lr < 0.2


def test_noise_moves_the_bounds_little():
    """A noise of five hundredths of the depth moves max_lr by less than a factor of three over fifty seeds."""
    found = [find_bounds(LRS, valley(noise=0.1, seed=seed))[0].max_lr for seed in range(50)]

    assert max(found) / min(found) < 3


def test_higher_is_better_mirrors_lower_is_better():
    mirrored = [-value for value in valley(0.1)]

    assert find_bounds(LRS, mirrored, "max") == find_bounds(LRS, valley(0.1))


def test_level_and_scale_of_the_loss_do_not_matter():
    lifted = [100 + 8 * value for value in valley(0.1)]

    assert find_bounds(LRS, lifted)[0].max_lr == pytest.approx(find_bounds(LRS, valley(0.1))[0].max_lr)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([4.0] * 60, "did not improve clearly"),
        ([2 + random.Random(step).gauss(0, 0.1) for step in range(60)], "did not improve clearly"),
        ([2 - step / 100 for step in range(60)], "still improving at the largest learning rate, 7.9"),
        ([2.0] * 5 + [math.nan], "only 5 finite values"),
        ([math.inf], "only 0 finite values"),
        ([2 + step**2 / 100 for step in range(60)], "did not improve clearly"),
    ],
    ids=["constant", "noise", "still falling", "NaN at once", "infinite", "only rising"],
)
def test_says_no_and_why(values, reason):
    bounds, why = find_bounds(LRS[: len(values)], values)

    assert bounds is None
    assert reason in why


def plateau(lrs, onset, seed):
    """Never learns: noise of 0.01 from the batches, and as much again from training at lr = onset."""
    rng = random.Random(seed)
    return [2.3 + rng.gauss(0, 0.01) + abs(rng.gauss(0, 0.01)) * lr / onset for lr in lrs]


def test_flat_curve_that_turns_rough_is_read_half_way_to_the_onset_of_roughness():
    """Where it is found, for nine seeds of ten within a factor of three, in the middle over all of them."""
    all_bounds = [find_bounds(LRS, plateau(LRS, 0.1, seed))[0] for seed in range(50)]
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

    assert sum(find_bounds(lrs, curve)[0] is not None for curve in curves) <= 3


def test_second_sweep_makes_the_onset_surer():
    """Half the spread from five times the points."""

    def spread(closer):
        all_bounds = [find_bounds(LRS, plateau(LRS, 0.1, seed), closer=closer(seed))[0] for seed in range(30)]
        return statistics.stdev(math.log(bounds.max_lr) for bounds in all_bounds if bounds)

    slow = [10 ** (step / 90 - 2) for step in range(240)]

    assert spread(lambda seed: (slow, plateau(slow, 0.1, seed + 100))) < 0.5 * spread(lambda seed: None)


def test_closer_look_is_for_curves_that_hardly_rise_above_their_noise():
    """From a twelfth of the onset to fifty times it."""
    part = closer_range(LRS, plateau(LRS, 0.1, 2))

    assert closer_range(LRS, valley(0.1)) is None
    assert closer_range(LRS, [2.0] * 60) is None
    assert part.max_lr / part.base_lr == pytest.approx(600)
    assert 0.05 / 12 < part.base_lr < 0.2 / 12


def test_doubtful_curve_is_read_from_its_clear_second_sweep():
    """The first sweep drowns in noise, the second shows the valley."""
    doubtful = valley(noise=2.0)
    clear = valley(noise=0.05)

    assert closer_range(LRS, doubtful) is not None
    assert find_bounds(LRS, doubtful, closer=(LRS, clear))[0].max_lr == pytest.approx(
        find_bounds(LRS, clear)[0].max_lr, rel=0.3
    )


def smith(lr, noise, rng):
    """An accuracy as in Smith's figures: rises from lr = 0.001, slows at 0.006, stays flat to 0.02, then falls."""
    level = 0.1 + 0.6 * min(1.0, max(0.0, (lr - 0.001) / 0.005))
    return level - 20 * max(0.0, lr - 0.02) + rng.gauss(0, noise)


SLOW_LRS = [10 ** (step / 100 - 3.5) for step in range(400)]  # 3e-4 to 3, a hundred steps a decade


def settles(values):
    """The number of steps after which a second sweep with these values may end; ``None`` if it has to go on."""
    settled = Settling((LRS, valley(0.6)), "min", 400)
    return next((end for end in range(1, 401) if settled(SLOW_LRS[:end], values[:end])), None)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_second_sweep_settles_when_more_steps_would_not_move_the_bounds(noise):
    """Behind both bounds, which are those of the whole sweep."""
    rng = random.Random(0)
    values = [2 / (1 + (lr / 0.01) ** 2) + 3 * lr**2 + rng.gauss(0, noise) for lr in SLOW_LRS]
    end = settles(values)
    found, _ = find_bounds(LRS, valley(0.6), closer=(SLOW_LRS[:end], values[:end]))
    whole, _ = find_bounds(LRS, valley(0.6), closer=(SLOW_LRS, values))

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
    bounds, reason = find_bounds(lrs, [smith(lr, 0.01, rng) for lr in lrs], "max", mode="linear")

    assert reason == ""
    assert 0.0022 < bounds.max_lr < 0.004
    assert 0 < bounds.base_lr <= bounds.max_lr / 4


def test_linear_sweep_that_is_still_rising_is_declined():
    """Its end is no bound."""
    lrs = [0.005 * (step + 1) / 100 for step in range(100)]
    rng = random.Random(4)

    assert "still improving" in find_bounds(lrs, [smith(lr, 0.01, rng) for lr in lrs], "max", mode="linear")[1]


def test_unbroken_final_rise_limits_max_lr():
    """Without noise the loss stays tiny long after it has begun to rise, at lr = 0.01; half of that is the most."""
    values = [abs(lr - LRS[30]) + (2.0 if lr < LRS[25] else 0.0) for lr in LRS[:40]]

    assert find_bounds(LRS[:40], values)[0].max_lr <= 0.005


def test_smoothing_a_constant_returns_the_constant():
    assert smooth([3.0] * 20) == pytest.approx([3.0] * 20)


def test_smoothing_has_no_lag():
    """A peak stays where it is."""
    smoothed = smooth([0.0] * 20 + [1.0] + [0.0] * 20, width=3)

    assert smoothed.index(max(smoothed)) == 20


def test_finite_part_ends_before_the_first_nan():
    assert finite_part([1.0, 2.0, math.nan, 3.0]) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("lrs", "values", "direction", "message"),
    [
        ([1.0] * 20, [1.0] * 20, "min", "`lrs` must be positive and rise"),
        ([1.0, 2.0], [1.0], "min", "`values` must be as many as `lrs` .2."),
        ([1.0, 2.0], [1.0, 1.0], "up", '`direction` must be "min" or "max"'),
    ],
)
def test_bad_input_is_refused(lrs, values, direction, message):
    with pytest.raises(ValueError, match=message):
        find_bounds(lrs, values, direction)
