"""The shape of every schedule: learning rate above, momentum below, over 120 steps between bounds of 0.1 and 1.

Writes ``cyclic.svg``, ``one_cycle.svg`` and ``sweep.svg``, the pictures of ``docs/schedules.md``.

    python examples/shapes.py
"""

from common import DARK, panels, save

from lightning_clr import Cyclic, LRBounds, OneCycle, Sweep

STEPS, BOUNDS = 120, LRBounds(0.1, 1.0)
CYCLIC = {
    "triangular": Cyclic(cycles=3),
    "triangular2": Cyclic(cycles=3, mode="triangular2"),
    "exp_range": Cyclic(cycles=3, mode="exp_range", gamma=0.98),
    'exp_range, decays="bounds"': Cyclic(cycles=3, mode="exp_range", gamma=0.98, decays="bounds"),
    "step_size=30, step_size_down=10": Cyclic(step_size=30, step_size_down=10),
}
ONE_CYCLE = {
    'anneal="cos"': OneCycle(),
    'anneal="linear"': OneCycle(anneal="linear"),
    "three_phase=True": OneCycle(three_phase=True),
    'anneal="smith", pct_start=0.45': OneCycle(anneal="smith", pct_start=0.45, final_div_factor=1000),
}


def draw(schedules):
    """Two rows of panels."""
    figure, axes = panels(2, len(schedules), width=12, height=4, sharex=True, sharey="row")
    for (name, schedule), (upper, lower) in zip(schedules.items(), axes.T, strict=True):
        upper.plot([schedule.lr(step, STEPS, BOUNDS) for step in range(STEPS)], color=DARK)
        lower.plot([schedule.momentum(step, STEPS) for step in range(STEPS)], "--", color=DARK)
        upper.set_title(name, fontsize="small")
        upper.set_ylim(0, 1.05)
        lower.set_xlabel("step")
    axes[0, 0].set_ylabel("learning rate")
    axes[1, 0].set_ylabel("momentum")
    return figure


def main():
    """Draw all three pictures."""
    save(draw(CYCLIC), "cyclic")
    save(draw(ONE_CYCLE), "one_cycle")
    figure, axes = panels(1, 2, width=6, height=2.2)
    for axis, mode in zip(axes, ("exponential", "linear"), strict=True):
        axis.plot([Sweep(mode=mode).lr(step, 100, LRBounds(1e-6, 10)) for step in range(100)], color=DARK)
        axis.set(title=f'mode="{mode}"', xlabel="step", yscale="log" if mode == "exponential" else "linear")
    axes[0].set_ylabel("learning rate")
    save(figure, "sweep")


if __name__ == "__main__":
    main()
