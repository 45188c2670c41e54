"""How much weight decay a high learning rate leaves room for: a grid of range tests.

A large learning rate regularises, so that other regularisation must become less (Smith 2018, sections 4.4 and 5). His
procedure: a range test for each weight decay of a coarse grid, and the largest weight decay that still allows a high
learning rate. The curves are validation losses, of three seeds the one in the middle. Decay of a batch-normalized
network acts through ``lr * weight_decay``, the rate at which weights shrink: that is why the curves part at the high
end, and why short sweeps take larger decays to show it.

With CIFAR-10 the grid is ten times as high, and the curves are training losses: validation losses depend on the
averages of batch normalization, which lag behind at high rates. With each weight decay there are two trainings by
1cycle: up to the learning rate with the lowest loss of its own sweep, and up to 0.1; both start at a tenth of it.

    python examples/weight_decay.py
    python examples/weight_decay.py --cifar DATA                              # six minutes on one core
    python examples/weight_decay.py --recorded weight_decay_cifar.json        # its picture, from a record

Writes ``weight_decay.svg``, with CIFAR-10 ``weight_decay_cifar.svg`` and ``.json``.
"""

import argparse

import torch
from common import (
    BLUE,
    DARK,
    GOLD,
    RED,
    batches,
    cifar10,
    digits,
    panels,
    quiet_trainer,
    read_record,
    record,
    save,
    train,
)
from super_convergence import SMITH, classifier

from lightning_clr import LRBounds, OneCycle, lr_range_test

ON_DIGITS = {"min_lr": 1e-3, "max_lr": 10.0, "monitor": "val_loss", "val_every_n_steps": 2}
ON_CIFAR = {"min_lr": 0.01, "max_lr": 10.0}
GRID, CIFAR_GRID = (0.0, 1e-4, 1e-3, 1e-2), (0.0, 1e-3, 1e-2, 1e-1)
COMMON = 0.1  # to which all are trained, too
LOOKS = (DARK, "-"), (GOLD, ":"), (BLUE, "--"), (RED, "-.")


def sweep(data, weight_decay, num_steps, seed, bar=False, **how):
    """The range test of one weight decay: its learning rates and smoothed losses."""
    module = classifier(data, OneCycle(), None, weight_decay, seed)
    trainer = quiet_trainer(num_steps, enable_progress_bar=bar)
    result = lr_range_test(trainer, module, *batches(data, 100), num_steps=num_steps, stop_factor=None, **how)
    return {"lrs": result.lrs[: len(result.smoothed)], "losses": result.smoothed}


def highest_rate(curve, level):
    """The largest learning rate at which the smoothed curve is below ``level``."""
    return max((lr for lr, loss in zip(curve["lrs"], curve["losses"], strict=True) if loss < level), default=0.0)


def picture(curves, level, kind="validation", top=None):
    """The curves overlaid, each with a dot where it leaves the level."""
    figure, axes = panels(height=4.4)
    for (weight_decay, curve), (color, style) in zip(curves.items(), LOOKS, strict=True):
        rate = highest_rate(curve, level)
        label = f"weight decay {float(weight_decay):g}: " + (f"up to {rate:.2g}" if rate else "never")
        axes.plot(curve["lrs"], curve["losses"], style, color=color, label=label)
        if rate:
            axes.plot(rate, level, "o", color=color)
    axes.axhline(level, color="0.7", linewidth=0.8)
    axes.set(xscale="log", xlabel="learning rate", ylabel=f"{kind} loss, smoothed", ylim=(None if top else 0, top or 3))
    axes.set_title("range tests of a grid of weight decays")
    axes.legend(loc="upper left" if top else "lower left")
    return figure


def with_digits(num_steps=200, level=1.0, seeds=3):
    """Sweep, print, draw the sweep in the middle; returns the highest learning rates by weight decay."""
    rates, shown = {}, {}
    for weight_decay in GRID:
        curves = sorted(
            (sweep(digits(300), weight_decay, num_steps, seed, **ON_DIGITS) for seed in range(seeds)),
            key=lambda curve: highest_rate(curve, level),
        )
        shown[weight_decay] = curves[seeds // 2]
        rates[weight_decay] = [highest_rate(curve, level) for curve in curves]
        found = " ".join(f"{rate:.2g}" for rate in rates[weight_decay])
        print(f"weight decay {weight_decay:<6g} validation loss below {level} up to lr {found}")
    save(picture(shown, level), "weight_decay")
    return rates


def final(data, max_lr, weight_decay, steps):
    """Test accuracy after 1cycle up to ``max_lr``."""
    module = classifier(data, SMITH, LRBounds(max_lr / 10, max_lr), weight_decay, 0)
    return train(module, data, steps, 100, 1, enable_progress_bar=True).accuracies[-1]


def measure_cifar(folder, num_steps=500, steps=300):
    """Sweep and train with each weight decay."""
    print("Takes about six minutes on one core.", flush=True)
    data = cifar10(folder, train=5_000, test=2_000)
    sweeps = {f"{decay:g}": sweep(data, decay, num_steps, 0, True, **ON_CIFAR) for decay in CIFAR_GRID}
    curves = {decay: {name: values[::5] for name, values in curve.items()} for decay, curve in sweeps.items()}
    trained = {}
    for decay, curve in curves.items():
        best = curve["lrs"][min(range(len(curve["lrs"])), key=curve["losses"].__getitem__)]
        trained[decay] = [best, *(final(data, max_lr, float(decay), steps) for max_lr in (best, COMMON))]
    numbers = {"curves": curves, "steps": steps, "trained": trained}
    record("weight_decay_cifar", "python examples/weight_decay.py --cifar FOLDER, on one core of a CPU", numbers)
    return numbers


def main(cifar=None, recorded=None, **kwargs):
    """Sweep, with CIFAR-10 also train; print, draw."""
    torch.set_num_threads(1)
    if cifar is None and recorded is None:
        return with_digits(**kwargs)
    numbers = measure_cifar(cifar, **kwargs) if recorded is None else read_record(recorded)
    losses = [loss for curve in numbers["curves"].values() for loss in curve["losses"]]
    level = (torch.tensor(10.0).log().item() + min(losses)) / 2  # half way from guessing to the best
    print(f"accuracies after {numbers['steps']} steps of 1cycle")
    print(f"| weight decay | loss below {level:.2f} up to lr | lowest loss at lr | up to that | up to {COMMON} |")
    print("|---|---|---|---|---|")
    for decay, (best, own, common) in numbers["trained"].items():
        rate = highest_rate(numbers["curves"][decay], level)
        print(f"| {decay} | {rate:.2g} | {best:.2g} | {own:.1f} % | {common:.1f} % |")
    save(picture(numbers["curves"], level, "training", 2.8), "weight_decay_cifar")
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar", metavar="FOLDER", help="where cifar-10-batches-py is")
    parser.add_argument("--recorded", metavar="FILE", help="draw the numbers of this record")
    main(**vars(parser.parse_args()))
