import csv
import math
import random
import sys

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

from lightning_clr import LRBounds, RangeTestResult
from lightning_clr.curve import Curve
from lightning_clr.reading import Outcome

matplotlib.use("Agg")

LRS = [10 ** (step / 10 - 5) for step in range(60)]
BOWL = [2 / (1 + (lr / 0.01) ** 2) + lr for lr in LRS]
FOUND = RangeTestResult.read(Curve(LRS, BOWL))
DIVERGED = RangeTestResult.read(Curve(LRS[:36], [*BOWL[:35], math.nan]), monitor="val_loss")
INCONCLUSIVE = RangeTestResult.read(Curve(LRS, [2.0] * 60, mode="linear"))
ACCURACY = RangeTestResult.read(Curve(LRS, [3 - value for value in BOWL], "max"), monitor="val_acc")
HOPELESS = RangeTestResult.read(Curve([0.1], [math.inf]))
TWO_SWEEPS = RangeTestResult.read(Curve(LRS, [2.0] * 60), Curve(LRS[20:50], BOWL[20:50]))
RESULTS = {
    "found": FOUND,
    "diverged": DIVERGED,
    "inconclusive": INCONCLUSIVE,
    "accuracy": ACCURACY,
    "nothing finite": HOPELESS,
    "two sweeps": TWO_SWEEPS,
}
every_result = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def table(result):
    result.to_csv("curve.csv")
    with open("curve.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_bounds_are_read_off_the_curve():
    """Where the bowl starts to fall, and a quarter of where it leaves its floor."""
    assert 0.001 < FOUND.bounds.base_lr < 0.005 < FOUND.bounds.max_lr < 0.05
    assert FOUND.reason == ""


def test_accuracy_has_the_bounds_of_the_mirrored_loss():
    """Up is down."""
    assert ACCURACY.bounds == FOUND.bounds


@every_result
def test_there_are_either_bounds_or_a_reason(result):
    """Never both, never neither."""
    assert (result.bounds is None) == bool(result.reason)


def test_csv_has_a_row_per_step():
    """The numbers come back exactly."""
    rows = table(FOUND)

    assert list(rows[0]) == ["step", "lr", "value", "smoothed", "sweep"]
    assert [int(row["step"]) for row in rows] == list(range(60))
    assert [float(row["lr"]) for row in rows] == LRS
    assert [float(row["value"]) for row in rows] == BOWL
    assert [float(row["smoothed"]) for row in rows] == FOUND.smoothed
    assert {row["sweep"] for row in rows} == {"1"}


def test_second_sweep_is_in_the_table_the_summary_and_the_picture():
    """Its rows follow those of the first; the picture shows both."""
    rows = table(TWO_SWEEPS)

    assert [row["sweep"] for row in rows] == ["1"] * 60 + ["2"] * 30
    assert [float(row["lr"]) for row in rows[60:]] == LRS[20:50]
    assert "(60 + 30 steps, train loss)" in TWO_SWEEPS.summary()
    ax = TWO_SWEEPS.plot()[1]
    assert [line.get_label() for line in ax.lines][:4] == [
        "recorded",
        "smoothed, as it is read",
        "recorded, second sweep",
        "smoothed, as it is read, second sweep",
    ]
    assert ax.get_ylim()[0] < min(BOWL[20:50])


def test_csv_of_a_diverged_sweep_ends_with_an_empty_cell():
    """The value that ended the sweep is there; it has no smoothed one."""
    last = table(DIVERGED)[-1]

    assert (last["step"], last["value"], last["smoothed"]) == ("35", "nan", "")


def test_csv_takes_any_path(tmp_path):
    """A `Path` as well as a string."""
    FOUND.to_csv(tmp_path / "curve.csv")

    assert (tmp_path / "curve.csv").read_text().startswith("step,lr,value,smoothed")


SUMMARIES = {
    "found": "LR range test: base_lr=0.002, max_lr=0.04 (60 steps, train loss)",
    "diverged": "LR range test: base_lr=0.00072, max_lr=0.0072 (36 steps, val_loss)",
    "inconclusive": "LR range test: no bounds, since the curve is the same at every learning rate: does it depend on"
    " the weights that are trained? (60 steps, train loss)",
    "accuracy": "LR range test: base_lr=0.002, max_lr=0.04 (60 steps, val_acc)",
    "two sweeps": "LR range test: base_lr=0.0025, max_lr=0.04 (60 + 30 steps, train loss)",
    "nothing finite": "LR range test: no bounds, since the value of the very first step is not finite: look for NaN in"
    " the data and in the model (1 step, train loss)",
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_summary_is_one_line(name):
    """The bounds, or why there are none; how many steps of what."""
    assert RESULTS[name].summary() == SUMMARIES[name]


def test_plateau_is_an_interval_around_the_best():
    """In a bowl it holds the best point, and a flat curve has none."""
    low, high = FOUND.plateau

    assert low < LRS[min(range(60), key=BOWL.__getitem__)] < high
    assert INCONCLUSIVE.plateau is None
    assert HOPELESS.plateau is None


def test_smoothed_curve_keeps_a_constant_and_ends_before_nan():
    """No lag, no bias, no infection by the value that ended the sweep."""
    assert INCONCLUSIVE.smoothed == pytest.approx([2.0] * 60)
    assert len(DIVERGED.smoothed) == 35
    assert all(map(math.isfinite, DIVERGED.smoothed))
    assert HOPELESS.smoothed == []


@every_result
def test_what_is_drawn_is_what_is_read(result):
    """One smoothing: in the picture, in the table, and under the bounds."""
    _, ax = result.plot()
    drawn = [list(line.get_ydata()) for line in ax.lines if line.get_label().startswith("smoothed")]
    rows = [(row[3], row[4]) for row in result.rows() if row[3] is not None]

    assert drawn == [[value for value, sweep in rows if sweep == number + 1] for number in range(len(drawn))]
    assert drawn[0] == result.smoothed


def test_floor_is_that_of_the_drawn_curve():
    """Where the curve is at its floor by its marks, it is in the picture; max_lr is read off its end."""
    result = RangeTestResult.read(Curve(LRS, [value + 0.02 * (-1) ** step for step, value in enumerate(BOWL)]))
    (low, high), floor = result.reading.marks.floor_lrs, result.reading.marks.floor
    inside = [value for lr, value in zip(result.lrs, result.smoothed, strict=True) if lr <= high]

    assert low < LRS[result.smoothed.index(min(result.smoothed))] < high
    assert inside[-1] <= floor < result.smoothed[len(inside)]
    assert result.bounds.max_lr == pytest.approx(high / 3.5)


def test_result_may_be_made_of_plain_numbers():
    """Of bounds that come from elsewhere, say."""
    result = RangeTestResult([0.1, 0.2], [2.0, 1.0], closer_lrs=[0.1], closer_values=[1.5], bounds=LRBounds(0.1, 0.2))

    assert (result.lrs, result.values, result.bounds) == ([0.1, 0.2], [2.0, 1.0], LRBounds(0.1, 0.2))
    assert (result.closer_lrs, result.closer_values) == ([0.1], [1.5])
    assert (result.outcome, result.reason) == (Outcome.FOUND, "")
    assert (
        RangeTestResult([], [], reason="it was NaN").summary().startswith("LR range test: no bounds, since it was NaN")
    )


@every_result
def test_state_survives_a_checkpoint(result):
    """Plain numbers, lists and strings: loads under `weights_only=True`, and gives the same result."""
    torch.save(result.state_dict(), "state.ckpt")

    loaded = RangeTestResult.from_state_dict(torch.load("state.ckpt", weights_only=True))

    assert repr(loaded) == repr(result)  # NaN is not equal to itself
    assert isinstance(loaded.bounds, LRBounds | None)


def test_state_is_a_copy():
    """Who writes into the checkpoint does not change the result."""
    state = FOUND.state_dict()

    state["curves"][0]["lrs"].clear()

    assert FOUND.lrs == LRS


def vertical_lines(ax):
    """Label and line style of the lines that mark one learning rate."""
    lines = [line for line in ax.get_lines() if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    return {line.get_label(): line.get_linestyle() for line in lines}


def test_plot_marks_both_bounds_in_different_styles():
    """Readable in black and white; the legend has the numbers, and where they come from."""
    figure, ax = FOUND.plot()
    base_lr, max_lr = "base_lr = 0.002: learning shows", "max_lr = 0.04: half of where the last rise starts"

    assert vertical_lines(ax) == {base_lr: "--", max_lr: "-."}
    assert [line.get_xdata()[0] for line in ax.get_lines()[-2:]] == [FOUND.bounds.base_lr, FOUND.bounds.max_lr]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["recorded", "smoothed, as it is read", "untrained level", "floor", base_lr, max_lr]
    assert ax.figure is figure


def test_plot_marks_what_the_bounds_rest_on():
    """The untrained level all along, the floor from end to end."""
    lines = {line.get_label(): line for line in FOUND.plot()[1].get_lines()}
    marks = FOUND.reading.marks

    assert set(lines["untrained level"].get_ydata()) == {marks.untrained}
    assert (*lines["floor"].get_xdata(),) == marks.floor_lrs
    assert set(lines["floor"].get_ydata()) == {marks.floor}


def test_plot_of_a_flat_curve_shows_its_roughness():
    """Both the level and the noise that the bounds are read off are in sight."""
    rng = random.Random(3)
    values = [2.3 + rng.gauss(0, 0.01) + abs(rng.gauss(0, 0.01)) * lr / 0.1 for lr in LRS]
    result = RangeTestResult.read(Curve(LRS, values))
    _, ax = result.plot()
    lines = {line.get_label(): line for line in ax.get_lines()}

    assert lines["as rough as the data"].get_xdata()[0] == pytest.approx(2 * result.bounds.max_lr)
    low, high = ax.get_ylim()
    assert low < min(values) < max(values[:30]) < high


def test_plot_without_bounds_tells_the_reason():
    """No line pretends to be a bound."""
    _, ax = INCONCLUSIVE.plot()

    assert vertical_lines(ax) == {}
    assert "is the same at every learning rate" in ax.get_title()


@pytest.mark.parametrize(("mode", "scale"), [("exponential", "log"), ("linear", "linear")])
def test_plot_has_the_scale_of_the_sweep(mode, scale):
    """Points are evenly spaced along the axis."""
    _, ax = RangeTestResult.read(Curve(LRS, BOWL, mode=mode)).plot()

    assert (ax.get_xscale(), ax.get_yscale()) == (scale, "linear")


def test_plot_names_what_was_recorded():
    """On the axes."""
    _, ax = ACCURACY.plot()

    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "val_acc")


@every_result
def test_plot_draws(result):
    """Whatever the curve is like, each point of its finite part."""
    figure, ax = result.plot()

    figure.canvas.draw()

    assert len(ax.get_lines()[0].get_xdata()) == len(result.smoothed)


def test_plot_shows_the_turn_but_not_the_explosion():
    """A last value of a million would flatten the curve to a line."""
    _, ax = RangeTestResult.read(Curve(LRS, [*BOWL[:-3], 1e2, 1e4, 1e6])).plot()

    low, high = ax.get_ylim()
    assert low < min(FOUND.smoothed) < max(BOWL[:40]) < high < 4


def test_plot_uses_the_axes_it_is_given():
    """Side by side with others; no figure of its own."""
    figure, (left, right) = plt.subplots(1, 2)

    assert FOUND.plot(left) == (figure, left)
    assert DIVERGED.plot(ax=right) == (figure, right)
    assert plt.get_fignums() == [figure.number]


def test_plot_in_a_subfigure_returns_the_whole_figure():
    """So that `savefig` works."""
    figure = plt.figure()
    ax = figure.subfigures(1, 2)[0].subplots()

    assert FOUND.plot(ax) == (figure, ax)


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    """And what works without."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-clr\[plot\]', or use `to_csv"):
        FOUND.plot()
