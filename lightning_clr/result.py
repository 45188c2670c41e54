"""What a range test has recorded and found."""

import csv
import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

import fsspec  # type: ignore[import-untyped]

from lightning_clr.bounds import LRBounds
from lightning_clr.curve import Curve
from lightning_clr.picture import draw
from lightning_clr.reading import Marks, Outcome, Reading, plateau, read
from lightning_clr.short_runs import ShortRun
from lightning_clr.valley import Valley, valleys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("step", "lr", "value", "smoothed", "sweep")


@dataclass(frozen=True, init=False)
class RangeTestResult:
    """The curves of a range test and what they say.

    A test makes one of its curves and their reading (:meth:`of`); this is for numbers that come from elsewhere.

    Args:
        lrs: Learning rate of each recorded step, ``[n]``.
        values: The monitored value at each of them, ``[n]``.
        monitor: Name of the value.
        monitor_mode: Whether lower (``"min"``) or higher (``"max"``) is better.
        mode: How the learning rate rose.
        bounds: Both bounds, or ``None``.
        reason: Why there are no bounds.
        closer_lrs: Learning rates of a second sweep, ``[m]``.
        closer_values: The monitored value at each of them, ``[m]``.

    Attributes:
        curves: What was recorded: the first sweep, and the second, slower one if the first was not clear enough.
        reading: Both bounds or the reason why there are none, the outcome, and what the reading rests on.
        monitor: Name of the value.
        runs: The short trainings that were made after the sweep, in this order; that at 0 is the untrained network.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> result = RangeTestResult.read(Curve(lrs, [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs]))
        >>> print(result.summary())
        LR range test: base_lr=0.002, max_lr=0.04 (60 steps, train loss)
    """

    curves: tuple[Curve, ...]
    reading: Reading
    monitor: str
    runs: tuple[ShortRun, ...] = ()

    def __init__(
        self,
        lrs: Sequence[float],
        values: Sequence[float],
        monitor: str = "train loss",
        monitor_mode: Literal["min", "max"] = "min",
        mode: Literal["exponential", "linear"] = "exponential",
        bounds: LRBounds | None = None,
        reason: str = "",
        closer_lrs: Sequence[float] = (),
        closer_values: Sequence[float] = (),
    ) -> None:
        curves = [Curve(lrs, values, monitor_mode, mode)]
        if closer_lrs:
            curves.append(Curve(closer_lrs, closer_values, monitor_mode, mode))
        outcome = Outcome.NO_CLEAR_IMPROVEMENT if bounds is None else Outcome.FOUND
        self._set(curves, Reading(bounds, outcome, reason), monitor, ())

    def _set(self, curves: Sequence[Curve], reading: Reading, monitor: str, runs: Sequence[ShortRun]) -> None:
        parts = {"curves": tuple(curves), "reading": reading, "monitor": monitor, "runs": tuple(runs)}
        for name, value in parts.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls,
        curves: Sequence[Curve],
        reading: Reading,
        monitor: str = "train loss",
        runs: Sequence[ShortRun] = (),
    ) -> "RangeTestResult":
        """The result that consists of these."""
        result = cls.__new__(cls)
        result._set(curves, reading, monitor, runs)
        return result

    @classmethod
    def read(cls, *curves: Curve, monitor: str = "train loss") -> "RangeTestResult":
        """The result that :func:`~lightning_clr.reading.read` reads off curves."""
        return cls.of(curves, read(curves), monitor)

    @property
    def lrs(self) -> list[float]:
        """Learning rate of each recorded step of the first sweep, ``[n]``."""
        return list(self.curves[0].lrs)

    @property
    def values(self) -> list[float]:
        """The monitored value at each of them, raw, averaged over accumulated batches and over ranks, ``[n]``.

        The last one is NaN or infinite if the test ended there; ``curves[0].ended_by`` tells if an error of the model
        has ended it.
        """
        return list(self.curves[0].values)

    @property
    def closer_lrs(self) -> list[float]:
        """Learning rates of the second sweep, ``[m]``; empty if the first was clear enough."""
        return [lr for curve in self.curves[1:] for lr in curve.lrs]

    @property
    def closer_values(self) -> list[float]:
        """The monitored value at each of them, ``[m]``."""
        return [value for curve in self.curves[1:] for value in curve.values]

    @property
    def num_steps(self) -> int:
        """Optimizer steps that the test has taken: those of its sweeps and of its short runs."""
        in_runs = sum(run.num_steps if run.max_lr else len(run.values) for run in self.runs)
        return sum(curve.num_steps for curve in self.curves) + in_runs

    @property
    def smoothed(self) -> list[float]:
        """The finite part of the first curve as it was read, without its noise and without lag, at most ``[n]``."""
        return self.curves[0].smoothed()

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """Whether lower (``"min"``) or higher (``"max"``) is better."""
        return self.curves[0].monitor_mode

    @property
    def mode(self) -> Literal["exponential", "linear"]:
        """How the learning rate rose."""
        return self.curves[0].mode

    @property
    def bounds(self) -> LRBounds | None:
        """Both bounds, or ``None`` if the curves do not tell them."""
        return self.reading.bounds

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where ``max_lr`` may well lie, ``(lowest, highest)``; ``None`` if there is none, or nobody knows.

        In some nine of ten tests of the project's benchmark a learning rate in it loses no more than a hundredth of
        what the best one brings.
        """
        return self.reading.interval

    @property
    def outcome(self) -> Outcome:
        """How the test ended."""
        return self.reading.outcome

    @property
    def reason(self) -> str:
        """Why there are no bounds, in plain words; empty if there are."""
        return self.reading.reason

    @property
    def plateau(self) -> tuple[float, float] | None:
        """The learning rates between which the first curve stays at its best; ``None`` if it never improves."""
        valley = Valley(self.curves[0])
        return plateau(valley) if valley.clarity >= 1 else None

    def summary(self) -> str:
        """The outcome in one line."""
        parts = [str(curve.num_steps) for curve in self.curves if curve.lrs]
        runs = [run.num_steps for run in self.runs if run.max_lr and run.falls]
        parts[1:1] = [f"{len(runs)} x {runs[0]}"] if runs else []
        lengths = " + ".join(parts)
        ended_by = "".join(f", ended by {curve.ended_by}" for curve in self.curves if curve.ended_by)
        unit = "step" if lengths == "1" else "steps"
        steps = f" ({lengths} {unit}, {self.monitor}{ended_by})" if lengths else ""
        if self.bounds is None:
            return f"LR range test: no bounds, since {self.reason}{steps}"
        within = "" if self.interval is None else "; max_lr may well lie within {:.2g} to {:.2g}".format(*self.interval)
        return f"LR range test: base_lr={self.bounds.base_lr:.2g}, max_lr={self.bounds.max_lr:.2g}{steps}{within}"

    def rows(self) -> Iterator[tuple[int, float, float, float | None, int]]:
        """The curves as a table with columns ``step, lr, value, smoothed, sweep``, the second sweep below the first.

        Example:
            >>> [*RangeTestResult.read(Curve([0.1, 0.2], [2.0, float("inf")])).rows()]
            [(0, 0.1, 2.0, 2.0, 1), (1, 0.2, inf, None, 1)]
        """
        for sweep, valley in enumerate(valleys(self.curves), start=1):
            curve = valley.curve
            smoothed: list[float | None] = [*curve.turned(valley.smoothed)]
            smoothed += [None] * (len(curve.lrs) - len(smoothed))
            for step, (lr, value, smooth_value) in enumerate(zip(curve.lrs, curve.values, smoothed, strict=True)):
                yield step, lr, value, smooth_value, sweep

    def to_csv(self, path: str | os.PathLike[str] | TextIO) -> None:
        """Write :meth:`rows` with a header, to a path or URL, or into a text file that is open."""
        if isinstance(path, str | os.PathLike):
            with fsspec.open(os.fspath(path), "w", newline="") as file:
                return self.to_csv(file)
        table = csv.writer(path)
        table.writerow(COLUMNS)
        return table.writerows(self.rows())

    def plot(self, ax: "Axes | None" = None) -> "tuple[Figure, Axes]":
        """Draw the curves as they were read, both bounds, and what these rest on; readable without colour.

        Args:
            ax: Where to draw; by default a new figure.

        Returns:
            The figure and its axes.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.
        """
        try:
            from matplotlib import pyplot as plt
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Plotting needs matplotlib: pip install 'lightning-clr[plot]', or use `to_csv()` and `summary()`."
            ) from error
        if ax is None:
            _, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
        draw(ax, self.curves, self.reading, self.monitor, self.runs)
        return ax.figure.canvas.figure, ax  # the whole figure, also of axes in a subfigure

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for a checkpoint."""
        state = dataclasses.asdict(self)
        state["curves"] = [{**curve, "lrs": [*curve["lrs"]], "values": [*curve["values"]]} for curve in state["curves"]]
        state["runs"] = [{**run, "values": [*run["values"]]} for run in state["runs"]]
        state["reading"]["outcome"] = self.outcome.value
        return state

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "RangeTestResult":
        """The result from which ``state`` was taken."""
        reading = state["reading"]
        bounds = None if reading["bounds"] is None else LRBounds(**reading["bounds"])
        parts = {"bounds": bounds, "outcome": Outcome(reading["outcome"]), "marks": Marks(**reading["marks"])}
        curves = [Curve(**curve) for curve in state["curves"]]
        runs = [ShortRun(**run) for run in state.get("runs", ())]
        return cls.of(curves, Reading(**{**reading, **parts}), state["monitor"], runs)
