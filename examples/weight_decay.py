"""How much weight decay a high learning rate leaves room for: a grid of range tests.

A large learning rate regularises, so that other regularisation must become less (Smith 2018, sections 4.4 and 5). His
procedure: a range test for each weight decay of a coarse grid, and the largest weight decay that still allows a high
learning rate. The curves are validation losses,
of three seeds the one in the middle. Decay of a batch-normalized network acts through ``lr * weight_decay``, the rate
at which weights shrink: that is why the curves part at the high end.

Writes ``weight_decay.svg``.

    python examples/weight_decay.py
"""

import torch
from common import BLUE, DARK, GOLD, RED, Classifier, batches, digits, panels, quiet_trainer, residual_network, save
from pytorch_lightning import seed_everything

from lightning_clr import OneCycle, lr_range_test

GRID = {0.0: (DARK, "-"), 1e-4: (GOLD, ":"), 1e-3: (BLUE, "--"), 1e-2: (RED, "-.")}


def sweep(weight_decay, num_steps, seed):
    """The range test of one weight decay."""
    seed_everything(seed, verbose=False)
    network = residual_network(channels=1, blocks=2, stages=2, norm_momentum=0.1)
    module = Classifier(network, OneCycle(), weight_decay=weight_decay)
    return lr_range_test(
        quiet_trainer(num_steps), module, *batches(digits(300), 100),
        min_lr=1e-3, max_lr=10.0, num_steps=num_steps, monitor="val_loss", val_every_n_steps=2, stop_factor=None,
    )  # fmt: skip


def highest_rate(result, level):
    """The largest learning rate at which the smoothed curve is below ``level``."""
    return max((lr for lr, loss in zip(result.lrs, result.smoothed, strict=False) if loss < level), default=0.0)


def picture(results, level):
    """The curves overlaid, each with a dot where it leaves the level."""
    figure, axes = panels(height=4.4)
    for (weight_decay, result), (color, style) in zip(results.items(), GRID.values(), strict=True):
        rate = highest_rate(result, level)
        curve = result.smoothed
        label = f"weight decay {weight_decay:g}: up to {rate:.2g}"
        axes.plot(result.lrs[: len(curve)], curve, style, color=color, label=label)
        if rate:
            axes.plot(rate, level, "o", color=color)
    axes.axhline(level, color="0.7", linewidth=0.8)
    axes.set(xscale="log", xlabel="learning rate", ylabel="validation loss, smoothed", ylim=(0, 3))
    axes.set_title("range tests of a grid of weight decays")
    axes.legend(loc="lower left")
    return figure


def main(num_steps=200, level=1.0, seeds=3):
    """Sweep, print, draw the sweep in the middle; returns the highest learning rates by weight decay."""
    torch.set_num_threads(1)
    rates, shown = {}, {}
    for weight_decay in GRID:
        results = sorted(
            (sweep(weight_decay, num_steps, seed) for seed in range(seeds)),
            key=lambda result: highest_rate(result, level),
        )
        shown[weight_decay] = results[seeds // 2]
        rates[weight_decay] = [highest_rate(result, level) for result in results]
        found = " ".join(f"{rate:.2g}" for rate in rates[weight_decay])
        print(f"weight decay {weight_decay:<6g} validation loss below {level} up to lr {found}")
    save(picture(shown, level), "weight_decay")
    return rates


if __name__ == "__main__":
    main()
