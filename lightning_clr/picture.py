"""Draws curves as they were read, both bounds, and what these rest on; readable without colour."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning_clr.curve import Curve
from lightning_clr.reading import Reading
from lightning_clr.short_runs import ShortRun
from lightning_clr.valley import valleys

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = ("", ", second sweep", ", third sweep")
_EXPLOSION = 0.5
"""How far above the untrained level a loss is shown, in units of the fall below it."""


def draw(ax: "Axes", curves: Sequence[Curve], reading: Reading, monitor: str, runs: Sequence[ShortRun] = ()) -> None:
    """Draw a range test.

    Args:
        ax: Where to draw.
        curves: The recorded curves.
        reading: What they say.
        monitor: Name of the recorded value.
        runs: The short runs.
    """
    if curves[0].mode == "exponential":
        ax.set_xscale("log")
    shown = _draw_curves(ax, curves, with_noise=reading.marks.rough_lr is not None) + _draw_runs(ax, runs)
    _draw_marks(ax, reading, "floor" if curves[0].monitor_mode == "min" else "plateau")
    _draw_bounds(ax, reading)
    if shown:
        ax.set_ylim(*_visible_range(shown, reading, curves[0].monitor_mode))
    ax.set_xlabel("learning rate")
    ax.set_ylabel(monitor)
    title = "LR range test" if reading.bounds else f"LR range test: {reading.reason}"
    ax.set_title(title, fontsize="medium", wrap=True)
    ax.legend(fontsize="small", framealpha=0.9)


def _draw_curves(ax: "Axes", curves: Sequence[Curve], with_noise: bool) -> list[float]:
    """Draw the values at each step, and what was read; returns what has to be seen of them."""
    shown: list[float] = []
    for valley, marker, line, name in zip(valleys(curves), ".x+", ("-", ":", "-"), _NAMES, strict=False):
        curve, smoothed = valley.curve, valley.curve.turned(valley.smoothed)
        lrs = curve.lrs[: len(smoothed)]
        recorded = curve.turned(curve.losses)
        ax.plot(lrs, recorded, marker, markersize=3, color="0.6", label=f"recorded{name}")
        ax.plot(lrs, smoothed, line, linewidth=2, color="black", label=f"smoothed, as it is read{name}")
        shown += recorded if with_noise else smoothed
    return shown


def _draw_runs(ax: "Axes", runs: Sequence[ShortRun]) -> list[float]:
    """Draw where short runs have ended, each at its largest learning rate; returns what has to be seen of them."""
    ended = sorted((run.max_lr, run.level) for run in runs if run.max_lr and run.falls and run.is_through)
    if ended:
        ax.plot(
            *zip(*ended, strict=True), "o--", markersize=7, color="0.3", linewidth=1, label="short runs, at their end"
        )
    blown_up = [run.max_lr for run in runs if run.max_lr and not run.is_through]
    if blown_up:
        top = ax.get_xaxis_transform()
        ax.plot(blown_up, [0.97] * len(blown_up), "x", markersize=8, color="black", transform=top, label="blew up")
    return [level for _, level in ended]


def _draw_marks(ax: "Axes", reading: Reading, floor: str) -> None:
    marks = reading.marks
    if marks.untrained is not None:
        ax.axhline(marks.untrained, linestyle=(0, (1, 4)), color="black", linewidth=1, label="untrained level")
    if marks.floor is not None and marks.floor_lrs is not None:
        height = [marks.floor] * 2
        ax.plot(marks.floor_lrs, height, "|-", color="0.3", markersize=10, alpha=0.6, linewidth=4, label=floor)
    if marks.rough_lr is not None:
        ax.axvline(marks.rough_lr, linestyle=":", color="black", linewidth=1.2, label="as rough as the data")


def _draw_bounds(ax: "Axes", reading: Reading) -> None:
    if reading.bounds is None:
        return
    if reading.interval is not None:
        label = "{:.2g} to {:.2g}: max_lr may well lie here".format(*reading.interval)
        ax.axvspan(*reading.interval, color="0.9", zorder=0, label=label)
    origins = {"base_lr": reading.marks.base_lr, "max_lr": reading.marks.max_lr}
    for (name, origin), style in zip(origins.items(), ("--", "-."), strict=True):
        lr = getattr(reading.bounds, name)
        label = f"{name} = {lr:.2g}" + (f": {origin}" if origin else "")
        ax.axvline(lr, linestyle=style, color="black", linewidth=1.2, label=label)


def _visible_range(shown: list[float], reading: Reading, monitor_mode: str) -> tuple[float, float]:
    """Limits that show the improvement and the turn, but not the explosion after it."""
    low, high = min(shown), max(shown)
    untrained = shown[0] if reading.marks.untrained is None else reading.marks.untrained
    if monitor_mode == "min":
        high = min(high, untrained + _EXPLOSION * (untrained - low)) if untrained > low else high
    else:
        low = max(low, untrained - _EXPLOSION * (high - untrained)) if untrained < high else low
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
