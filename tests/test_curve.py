"""What a recorded curve is, and how it is smoothed."""

import math
import random

import pytest

from lightning_clr.curve import Curve, smooth

LRS = [10 ** (step / 10 - 5) for step in range(60)]  # 1e-5 to 7.9, ten steps a decade


def test_smoothing_a_constant_returns_the_constant():
    assert Curve(LRS, [3.0] * 60).smoothed() == pytest.approx([3.0] * 60)


def test_smoothing_has_no_lag():
    """A peak stays where it is."""
    smoothed = smooth([0.0] * 20 + [1.0] + [0.0] * 20, width=3)

    assert smoothed.index(max(smoothed)) == 20


def test_smoothing_takes_noise_away():
    """An alternating disturbance of 0.5 all but vanishes."""
    smoothed = Curve(LRS, [2 + 0.5 * (-1) ** step for step in range(60)]).smoothed()[10:50]

    assert max(smoothed) - min(smoothed) < 0.01


def test_smoothing_averages_four_tenths_of_a_decade():
    """However many steps that is; at most six hundredths of the sweep."""
    coarse, fine = (Curve([10 ** (step / n - 5) for step in range(6 * n)], [1.0] * 6 * n) for n in (5, 20))

    assert (coarse.width, fine.width) == (pytest.approx(0.06 * 30), pytest.approx(0.06 * 120))
    assert Curve([10 ** (step / 5 - 5) for step in range(100)], [1.0] * 100).width == pytest.approx(2.0)
    assert Curve([0.01 * (step + 1) for step in range(100)], [1.0] * 100, mode="linear").width == pytest.approx(6.0)


def test_explosion_counts_as_little_more_than_not_learning():
    """Half the improvement above the untrained level is the most, so that its last value does not move the valley."""
    values = [2.0] * 20 + [1.0] * 20 + [3.0] * 20
    exploded = [*values[:-1], 1e9]

    assert max(Curve(LRS, values).smoothed()) == pytest.approx(2.5)
    assert Curve(LRS, exploded).smoothed() == Curve(LRS, values).smoothed()


def test_untrained_level_may_be_known_better():
    """That of the first sweep counts in the second, which may start below it: nothing is cut off there."""
    values = [1.0 + lr for lr in LRS]

    assert Curve(LRS, values).smoothed()[-1] < Curve(LRS, values).smoothed(untrained=2.0)[-1]


@pytest.mark.parametrize("end", [math.nan, math.inf, -math.inf])
def test_curve_ends_before_the_first_value_that_is_not_finite(end):
    curve = Curve([0.1, 0.2, 0.4, 0.8], [1.0, 2.0, end, 3.0])

    assert curve.losses == [1.0, 2.0]
    assert len(curve.smoothed()) == 2


def test_higher_is_better_is_turned_to_be_read_and_back_to_be_drawn():
    rng = random.Random(0)
    accuracies = [rng.random() for _ in LRS]
    curve, mirrored = Curve(LRS, accuracies, "max"), Curve(LRS, [-value for value in accuracies])

    assert curve.losses == mirrored.losses
    assert curve.smoothed() == [-value for value in mirrored.smoothed()]


@pytest.mark.parametrize("number", range(4))
def test_few_points_are_smoothed_too(number):
    """A test that ends at once has a picture."""
    curve = Curve([0.1, 0.2, 0.4][:number], [2.0, 1.0, 3.0][:number])

    assert len(curve.smoothed()) == number
    assert all(map(math.isfinite, curve.smoothed()))


@pytest.mark.parametrize(
    ("lrs", "values", "arguments", "message"),
    [
        ([1.0] * 20, [1.0] * 20, {}, "`lrs` must be positive and rise"),
        ([0.0, 1.0], [1.0] * 2, {}, "`lrs` must be positive and rise"),
        ([1.0, 2.0], [1.0], {}, "`values` must be as many as `lrs` .2."),
        ([1.0, 2.0], [1.0, 1.0], {"monitor_mode": "up"}, '`monitor_mode` must be "min" or "max"'),
        ([1.0, 2.0], [1.0, 1.0], {"mode": "log"}, '`mode` must be "exponential" or "linear"'),
    ],
)
def test_bad_input_is_refused(lrs, values, arguments, message):
    with pytest.raises(ValueError, match=message):
        Curve(lrs, values, **arguments)
