"""Writes a result to files: the curve as a table, and its picture."""

from typing import TYPE_CHECKING

import fsspec  # type: ignore[import-untyped]

from lightning_clr.result import RangeTestResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "lr_range_test"


def write_files(result: RangeTestResult, folder: str) -> dict[str, str]:
    """Write ``lr_range_test.csv``, and ``lr_range_test.png`` where matplotlib is installed.

    Args:
        result: What the range test has found.
        folder: A path or a URL; made if there is none.

    Returns:
        The path of each file by its kind, ``"csv"`` or ``"png"``.
    """
    filesystem, path = fsspec.url_to_fs(folder)
    filesystem.makedirs(path, exist_ok=True)
    files = {"csv": f"{folder}/{NAME}.csv"}
    result.to_csv(files["csv"])
    figure = figure_of(result)
    if figure is not None:
        files["png"] = f"{folder}/{NAME}.png"
        with fsspec.open(files["png"], "wb") as file:
            figure.savefig(file, format="png")
    return files


def figure_of(result: RangeTestResult) -> "Figure | None":
    """The plot, on a canvas of its own that no window, notebook or list of open figures knows.

    ``None`` where matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    result.plot(figure.subplots())
    return figure
