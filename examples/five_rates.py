"""Five learning rates on one bowl: too small, good, optimal, large, too large.

Gradient descent on ``f(x) = x**2`` multiplies x by ``1 - 2 * lr`` at each step. So it converges where that factor is
between -1 and 1, for learning rates below 1.0, which is 2 over the curvature. In ``log(0.01) / log(abs(1 - 2 * lr))``
steps x falls to a hundredth:

    lr 0.01, too small   factor  0.98   228 steps
    lr 0.1,  good        factor  0.8     21 steps
    lr 0.7,  optimal     factor -0.4      6 steps
    lr 0.99, large       factor -0.98   228 steps, from side to side
    lr 1.01, too large   factor -1.02   never: it climbs out of the bowl

The names are the article's. The optimum of this bowl is 0.5, which is there in one step; nobody knows the curvature of
a network. Smith's range test finds the largest rate that still converges (Smith 2017, section 3.3).

Writes ``five_rates.svg``, and ``five_rates.gif`` on demand.

    python examples/five_rates.py [--animation]
"""

import argparse
import math

import torch
from common import panels, save
from matplotlib.animation import FuncAnimation, PillowWriter

RATES = {0.01: "too small", 0.1: "good", 0.7: "optimal", 0.99: "large", 1.01: "too large"}
MARKERS = dict(zip(RATES, "so^Dv", strict=True))
START = 2.0


def descend(lr, num_steps):
    """The ``num_steps + 1`` places that gradient descent visits."""
    x = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([x], lr=lr)
    places = [x.item()]
    for _ in range(num_steps):
        optimizer.zero_grad()
        (x**2).backward()
        optimizer.step()
        places.append(x.item())
    return places


def steps_to_a_hundredth(lr):
    """By the analysis above; infinite if never."""
    factor = abs(1 - 2 * lr)
    return math.ceil(math.log(0.01) / math.log(factor)) if factor < 1 else math.inf


def draw_bowls(axes, shown=12):
    """The first steps in the bowl, one panel per learning rate; returns the lines, to be animated."""
    grid = torch.linspace(-2.9, 2.9, 59)
    lines = []
    for axis, (lr, name) in zip(axes, RATES.items(), strict=True):
        places = descend(lr, shown)
        axis.plot(grid, grid**2, color="0.7", linestyle="-")
        lines += axis.plot(
            places, [x**2 for x in places], "-", color="black", marker=MARKERS[lr], markersize=4, linewidth=0.8
        )
        axis.set(title=f"{name}, {lr}", xticks=[], yticks=[])
    return lines


def picture():
    """Paths above, losses below."""
    figure, axes = panels(2, 5, height=5.0, height_ratios=[1, 1.6])
    draw_bowls(axes[0])
    axes[0, 0].set_ylabel("f(x) = x²")
    for axis in axes[1]:
        axis.remove()
    losses = figure.add_subplot(axes[1, 0].get_gridspec()[1, :])
    losses.spines[["top", "right"]].set_visible(False)
    for lr, name in RATES.items():
        curve = [x**2 for x in descend(lr, 60)]
        every = (2 if lr == 0.99 else 0, 4)  # beside those of 0.01, whose line is the same
        visible = [loss for loss in curve if loss > 1e-5]
        losses.semilogy(visible, "-", color="black", linewidth=1, marker=MARKERS[lr], markevery=every, markersize=5)
        place = {0.01: (7, -9), 0.99: (7, 6)}.get(lr, (7, 0))  # these two are the same line
        losses.annotate(
            f"{lr} {name}", (len(visible) - 1, visible[-1]), xytext=place, textcoords="offset points", va="center"
        )
    losses.axhline(START**2, color="0.7", linewidth=0.8, linestyle=":")
    losses.set(xlabel="step", ylabel="loss", xlim=(-1, 70))
    return figure


def animation(num_steps=24):
    """The five paths, step by step."""
    figure, axes = panels(1, 5, width=9, height=2.2)
    lines = draw_bowls(axes, shown=num_steps)
    axes[2].set_xlabel("step 0")
    paths = [line.get_data() for line in lines]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once

    def frame(step):
        for line, (xs, ys) in zip(lines, paths, strict=True):
            line.set_data(xs[: step + 1], ys[: step + 1])
        axes[2].set_xlabel(f"step {step}")

    return FuncAnimation(figure, frame, frames=num_steps + 1, interval=250)


def main(num_steps=300, animate=False):
    """Print what the analysis says and what happens; draw."""
    counted = {}
    for lr, name in RATES.items():
        places = descend(lr, num_steps)
        arrived = (step for step, x in enumerate(places) if abs(x) <= START / 100)
        counted[lr] = next(arrived, math.inf)
        print(f"lr {lr:<5} {name:<10} steps to a hundredth: {counted[lr]}, expected {steps_to_a_hundredth(lr)}")
    save(picture(), "five_rates")
    if animate:
        animation().save("five_rates.gif", PillowWriter(fps=4), dpi=60)
    return counted


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--animation", action="store_true")
    main(animate=parser.parse_args().animation)
