"""What the reader says of curves with a known answer."""

import math
import random

import pytest

from lightning_clr.curve import find_bounds, finite_part, smooth

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


def test_flat_curve_that_turns_rough_is_read_below_the_roughness():
    """A deep plain net learns nothing in the sweep, then its loss becomes rough at lr = 0.1 and rises."""
    rng = random.Random(1)
    values = [2.3 + (abs(rng.gauss(0, 1)) if lr > 0.1 else rng.gauss(0, 0.01)) for lr in LRS]

    bounds, _ = find_bounds(LRS, values)

    assert 0.005 < bounds.max_lr < 0.05


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
