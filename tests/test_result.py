import csv
import math
import sys

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

from lightning_clr import LRBounds, RangeTestResult

matplotlib.use("Agg")

LRS = [10 ** (step / 10 - 5) for step in range(60)]
BOWL = [2 / (1 + (lr / 0.01) ** 2) + lr for lr in LRS]
FOUND = RangeTestResult.read(LRS, BOWL)
DIVERGED = RangeTestResult.read(LRS[:36], [*BOWL[:35], math.nan], monitor="val_loss")
INCONCLUSIVE = RangeTestResult.read(LRS, [2.0] * 60, mode="linear")
ACCURACY = RangeTestResult.read(LRS, [3 - value for value in BOWL], monitor="val_acc", monitor_mode="max")
HOPELESS = RangeTestResult.read([0.1], [math.inf])
RESULTS = {
    "found": FOUND,
    "diverged": DIVERGED,
    "inconclusive": INCONCLUSIVE,
    "accuracy": ACCURACY,
    "nothing finite": HOPELESS,
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
    result = RangeTestResult.read(LRS, [2.0] * 60, (LRS[20:50], BOWL[20:50]))
    rows = table(result)

    assert [row["sweep"] for row in rows] == ["1"] * 60 + ["2"] * 30
    assert [float(row["lr"]) for row in rows[60:]] == LRS[20:50]
    assert "(60 + 30 steps, train loss)" in result.summary()
    assert len(result.plot()[1].lines) == 4 + 2 * (result.bounds is not None)


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
    "diverged": "LR range test: base_lr=0.0018, max_lr=0.0072 (36 steps, val_loss)",
    "inconclusive": "LR range test: no bounds, since the curve did not improve clearly beyond its noise at any learning"
    " rate: take more steps (60 steps, train loss)",
    "accuracy": "LR range test: base_lr=0.002, max_lr=0.04 (60 steps, val_acc)",
    "nothing finite": "LR range test: no bounds, since only 0 finite values were recorded, at least 10 are needed:"
    " start from a smaller min_lr or take more steps (1 steps, train loss)",
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


def test_smoothed_curve_has_less_noise():
    """An alternating disturbance of 0.5 all but vanishes."""
    noisy = RangeTestResult(LRS, [2 + 0.5 * (-1) ** step for step in range(60)])

    assert max(abs(value - 2) for value in noisy.smoothed[10:50]) < 0.05


@every_result
def test_state_survives_a_checkpoint(result):
    """Plain numbers, lists and strings: loads under `weights_only=True`, and gives the same result."""
    torch.save(result.state_dict(), "state.ckpt")

    loaded = RangeTestResult.from_state_dict(torch.load("state.ckpt", weights_only=True))

    assert repr(loaded) == repr(result)
    assert isinstance(loaded.bounds, LRBounds | None)


def test_state_is_a_copy():
    """Who writes into the checkpoint does not change the result."""
    state = FOUND.state_dict()

    state["lrs"].clear()

    assert FOUND.lrs == LRS


def vertical_lines(ax):
    """Label and line style of the lines that mark one learning rate."""
    lines = [line for line in ax.get_lines() if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2]
    return {line.get_label(): line.get_linestyle() for line in lines}


def test_plot_marks_both_bounds_in_different_styles():
    """Readable in black and white; the legend has the numbers."""
    figure, ax = FOUND.plot()

    assert vertical_lines(ax) == {"base_lr = 0.002": "--", "max_lr = 0.04": "-."}
    assert [line.get_xdata()[0] for line in ax.get_lines()[2:]] == [FOUND.bounds.base_lr, FOUND.bounds.max_lr]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["recorded", "smoothed", "base_lr = 0.002", "max_lr = 0.04"]
    assert ax.figure is figure


def test_plot_without_bounds_tells_the_reason():
    """No line pretends to be a bound."""
    _, ax = INCONCLUSIVE.plot()

    assert vertical_lines(ax) == {}
    assert "did not improve" in ax.get_title()


@pytest.mark.parametrize(("mode", "scale"), [("exponential", "log"), ("linear", "linear")])
def test_plot_has_the_scale_of_the_sweep(mode, scale):
    """Points are evenly spaced along the axis."""
    _, ax = RangeTestResult.read(LRS, BOWL, mode=mode).plot()

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
    _, ax = RangeTestResult.read(LRS, [*BOWL[:-3], 1e2, 1e4, 1e6]).plot()

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
