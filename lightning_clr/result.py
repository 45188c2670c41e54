"""What a range test has recorded and found."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TextIO

import fsspec  # type: ignore[import-untyped]

from lightning_clr.bounds import LRBounds
from lightning_clr.curve import find_bounds, find_plateau, finite_part, smooth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("step", "lr", "value", "smoothed", "sweep")


@dataclass(frozen=True)
class RangeTestResult:
    """The curve of a range test and the bounds read off it.

    Attributes:
        lrs: Learning rate of each recorded step, ``[n]``.
        values: The monitored value at each of them, raw, averaged over accumulated batches and over ranks, ``[n]``. The
            last one is NaN or infinite if the test ended there.
        monitor: Name of the value; ``"train loss"`` by default.
        monitor_mode: Whether lower (``"min"``) or higher (``"max"``) is better.
        mode: How the learning rate rose.
        bounds: Both bounds, or ``None`` if the curve does not tell them.
        reason: Why there are no bounds, in plain words; empty if there are.
        closer_lrs: Learning rates of the second, slower sweep, ``[m]``; empty if the first was clear enough.
        closer_values: The monitored value at each of them, ``[m]``.

    Example:
        >>> lrs = [10 ** (step / 10 - 5) for step in range(60)]
        >>> result = RangeTestResult.read(lrs, [2 / (1 + (lr / 0.01) ** 2) + lr for lr in lrs])
        >>> print(result.summary())
        LR range test: base_lr=0.002, max_lr=0.04 (60 steps, train loss)
    """

    lrs: list[float]
    values: list[float]
    monitor: str = "train loss"
    monitor_mode: Literal["min", "max"] = "min"
    mode: Literal["exponential", "linear"] = "exponential"
    bounds: LRBounds | None = None
    reason: str = ""
    closer_lrs: list[float] = field(default_factory=list)
    closer_values: list[float] = field(default_factory=list)

    @classmethod
    def read(
        cls, lrs: list[float], values: list[float], closer: tuple[list[float], list[float]] | None = None, **names: Any
    ) -> "RangeTestResult":
        """The result with the bounds that :func:`~lightning_clr.curve.find_bounds` reads off the curve or curves."""
        mode = names.get("mode", "exponential")
        bounds, reason = find_bounds(lrs, values, names.get("monitor_mode", "min"), closer, mode)
        closer_lrs, closer_values = closer or ([], [])
        return cls(
            lrs,
            values,
            bounds=bounds,
            reason=reason,
            closer_lrs=closer_lrs,
            closer_values=closer_values,
            **names,
        )

    @property
    def smoothed(self) -> list[float]:
        """The finite part of the curve without its noise and without lag, at most ``[n]``."""
        return smooth(finite_part(self.values))

    @property
    def plateau(self) -> tuple[float, float] | None:
        """The learning rates between which the curve stays at its best; ``None`` if it never improves."""
        return find_plateau(self.lrs, self.values, self.monitor_mode, self.mode)

    def summary(self) -> str:
        """The outcome in one line."""
        steps = " + ".join(str(len(lrs)) for lrs in (self.lrs, self.closer_lrs) if lrs)
        steps = f"({steps} steps, {self.monitor})"
        if self.bounds is None:
            return f"LR range test: no bounds, since {self.reason} {steps}"
        return f"LR range test: base_lr={self.bounds.base_lr:.2g}, max_lr={self.bounds.max_lr:.2g} {steps}"

    def rows(self) -> Iterator[tuple[int, float, float, float | None, int]]:
        """The curve as a table with columns ``step, lr, value, smoothed, sweep``, the second sweep below the first.

        Example:
            >>> [*RangeTestResult([0.1, 0.2], [2.0, float("inf")]).rows()]
            [(0, 0.1, 2.0, 2.0, 1), (1, 0.2, inf, None, 1)]
        """
        for sweep, (lrs, values) in enumerate(self._sweeps(), start=1):
            smoothed: list[float | None] = [*smooth(finite_part(values))]
            smoothed += [None] * (len(lrs) - len(smoothed))
            for step, (lr, value, smooth_value) in enumerate(zip(lrs, values, smoothed, strict=True)):
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
        """Draw the raw and the smoothed curve with both bounds marked; readable without colour.

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
        visible: list[float] = []
        for (lrs, values), marker, line, name in zip(self._sweeps(), ".x", "-:", ("", ", closer look"), strict=False):
            shown = finite_part(values)
            ax.plot(lrs[: len(shown)], shown, marker, markersize=3, color="0.6", label=f"recorded{name}")
            smoothed = smooth(shown)
            ax.plot(lrs[: len(shown)], smoothed, line, linewidth=2, color="black", label=f"smoothed{name}")
            visible += smoothed
        if self.mode == "exponential":
            ax.set_xscale("log")
        if self.bounds is not None:
            for name, lr, style in (
                ("base_lr", self.bounds.base_lr, "--"),
                ("max_lr", self.bounds.max_lr, "-."),
            ):
                ax.axvline(lr, linestyle=style, color="black", linewidth=1.2, label=f"{name} = {lr:.2g}")
        if visible:
            ax.set_ylim(*_visible_range(visible, self.monitor_mode))
        ax.set_xlabel("learning rate")
        ax.set_ylabel(self.monitor)
        ax.set_title("LR range test" if self.bounds else f"LR range test: {self.reason}", fontsize="medium", wrap=True)
        ax.legend()
        return ax.figure.canvas.figure, ax  # the whole figure, also of axes in a subfigure

    def _sweeps(self) -> list[tuple[list[float], list[float]]]:
        closer = [(self.closer_lrs, self.closer_values)] if self.closer_lrs else []
        return [(self.lrs, self.values), *closer]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for a checkpoint."""
        bounds = None if self.bounds is None else [self.bounds.base_lr, self.bounds.max_lr]
        copies = {name: list(value) if isinstance(value, list) else value for name, value in vars(self).items()}
        return {**copies, "bounds": bounds}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "RangeTestResult":
        """The result from which ``state`` was taken."""
        return cls(**{**state, "bounds": None if state["bounds"] is None else LRBounds(*state["bounds"])})


def _visible_range(curve: list[float], monitor_mode: str) -> tuple[float, float]:
    """Limits that show the improvement and the turn, but not the explosion after it."""
    low, high = min(curve), max(curve)
    start = curve[0]
    if monitor_mode == "min":
        high = min(high, start + 0.5 * (start - low)) if start > low else high
    else:
        low = max(low, start - 0.5 * (high - start)) if start < high else low
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
