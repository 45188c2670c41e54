"""How many steps it takes to leave a saddle point, at a fixed and at a cyclical learning rate.

``f(x, y) = x**2 / 2 + b * (y**4 / 4 - y**2 / 2)`` with ``b = 0.1`` has a saddle at the origin and minima at ``y =
±1``. Gradient descent near the saddle multiplies x by ``1 - lr``, which stays small for learning rates below 2, and y
by ``1 + b * lr``. A start at ``y = 0.0001`` has left the saddle, passing ``y = 0.5``, after about

    log(5000) / log(1 + b * lr)    steps: 856 at a fixed 0.1,

and where the rate changes, after as many steps as it takes the sum of ``log(1 + b * lr)`` to reach ``log(5000)``. So
what counts is the mean learning rate, nearly: the cycle between 0.1 and 1.5 needs what a fixed 0.8 needs. It visits
the low rate as well, at which a noisy training settles: that is the point of a cycle, and the reason that Smith gives
(2017, section 3, after Dauphin et al.). It explains this surface; that it explains networks has been doubted (Gotmare
et al. 2018, https://arxiv.org/abs/1810.13243).

Writes ``saddle.svg``.

    python examples/saddle.py
"""

import math

import torch
from common import BLUE, DARK, RED, panels, save

from lightning_clr import Cyclic, LRBounds, ScheduleLR

BEND, START, LEFT = 0.1, (1.0, 1e-4), 0.5
BOUNDS = LRBounds(0.1, 1.5)
CYCLE = Cyclic(step_size=20)
RUNS = {
    "fixed, the lower bound": (LRBounds(0.1, 0.1), DARK, "-"),
    "cyclical": (BOUNDS, BLUE, "--"),
    "fixed, the mean": (LRBounds(0.8, 0.8), RED, ":"),
}


def surface(x, y):
    """The height, which is the loss."""
    return x**2 / 2 + BEND * (y**4 / 4 - y**2 / 2)


def descend(bounds, num_steps):
    """Places ``[num_steps + 1, 2]`` and learning rates ``[num_steps]``; fixed where the bounds are equal."""
    place = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([place], lr=bounds.max_lr)
    scheduler = ScheduleLR(optimizer, CYCLE, None, bounds)
    places, lrs = [place.tolist()], []
    for _ in range(num_steps):
        optimizer.zero_grad()
        surface(*place).backward()
        lrs += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
        places.append(place.tolist())
    return places, lrs


def steps_to_leave(places):
    """The first step after which y is beyond ``LEFT``, or infinity."""
    return next((step for step, (_, y) in enumerate(places) if y > LEFT), math.inf)


def expected_steps(lrs):
    """By the analysis above."""
    grown = 0.0
    for step, lr in enumerate(lrs):
        if grown >= math.log(LEFT / START[1]):
            return step
        grown += math.log(1 + BEND * lr)
    return math.inf


def picture(paths, shown=300):
    """The surface with the path of the cycle, and the distance from the saddle point."""
    figure, axes = panels(1, 2, height=3.8, width_ratios=[1, 1.4])
    axes[0].remove()
    above, distance = figure.add_subplot(1, 2, 1, projection="3d"), axes[1]
    y, x = torch.meshgrid(torch.linspace(-1.3, 1.3, 40), torch.linspace(-0.25, 0.25, 40), indexing="ij")
    above.plot_wireframe(x.numpy(), y.numpy(), surface(x, y).numpy(), color="0.75", linewidth=0.5, rstride=3, cstride=3)
    places = [place for place in paths["cyclical"][0][:140] if abs(place[0]) < 0.25]
    heights = [surface(*place) for place in places]
    above.plot(*zip(*places, strict=True), heights, "o", color=BLUE, markersize=3, zorder=9)
    above.set(xlabel="x", ylabel="y", xticks=[], yticks=[], zticks=[], title="down to the saddle, then along y")
    above.view_init(elev=38, azim=-28)

    for name, (_, color, style) in RUNS.items():
        left = steps_to_leave(paths[name][0])
        ys = [y for _, y in paths[name][0][: shown + 1]]
        distance.semilogy(ys, style, color=color, label=f"{name}: left after {left} steps")
        if left <= shown:
            distance.plot(left, ys[left], "o", color=color)
    distance.axhline(LEFT, color="0.7", linewidth=0.8)
    distance.set(xlabel="step", ylabel="y, the distance from the saddle")
    distance.legend(loc="center right")
    return figure


def main(num_steps=1000):
    """Count the steps, print them beside the expectation, draw; returns both by name."""
    paths = {name: descend(bounds, num_steps) for name, (bounds, _, _) in RUNS.items()}
    counts = {name: (steps_to_leave(places), expected_steps(lrs)) for name, (places, lrs) in paths.items()}
    for name, (left, expected) in counts.items():
        print(f"{name:<24} left after {left} steps, expected {expected}")
    save(picture(paths), "saddle")
    return counts


if __name__ == "__main__":
    main()
