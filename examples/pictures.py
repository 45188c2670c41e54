"""The common look of the pictures: an opaque light ground, and lines that differ without colour.

Every example writes its pictures to the current folder. Those of the documentation were made in ``docs``:

    cd docs && python ../examples/five_rates.py
"""

from matplotlib import pyplot as plt

DARK, BLUE, RED, GOLD = "black", "#0b62a4", "#b3261e", "#8f5f00"

plt.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "savefig.facecolor": "white",
        "svg.hashsalt": "lightning-clr",  # the same picture is the same file
    }
)


def panels(rows=1, columns=1, width=9.0, height=4.0, **kwargs):
    """A figure and its axes."""
    return plt.subplots(rows, columns, figsize=(width, height), **kwargs)


def save(figure, name):
    """Write ``<name>.svg`` to the current folder."""
    figure.savefig(f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
