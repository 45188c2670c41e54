"""Learning rate schedules side by side, and what each does to the same model.

First row, the background: time-based, step and exponential decay (each written here as a schedule in three lines) and
a constant rate. Second row: triangular, triangular2, exp_range (Smith 2017, section 3.1) and 1cycle (Smith and Topin
2018, section 3). Third row: Adagrad, Adadelta, RMSprop and Adam, which adapt a rate for each parameter from one that
is constant. Every rate comes from an ``LRRangeTest`` of its optimizer: schedules move below its ``max_lr``, constant
rates are half of it.

All train the network of ``digits.py`` for the same few steps: this shows which learns soonest on one small task.

Writes ``schedules.svg``.

    python examples/schedules.py
"""

import statistics
from functools import partial

import torch
from common import BLUE, Classifier, batches, digits, digits_network, panels, quiet_trainer, save, train
from pytorch_lightning import seed_everything

from lightning_clr import Cyclic, LRBounds, OneCycle, Schedule, lr_range_test


class Constant(Schedule):
    """Half of ``max_lr``."""

    def lr(self, step, total_steps, bounds):
        return bounds.max_lr / 2


class TimeBased(Schedule):
    """``max_lr / (1 + k t)``, a tenth at the end."""

    def lr(self, step, total_steps, bounds):
        return bounds.max_lr / (1 + 9 * step / (total_steps - 1))


class Steps(Schedule):
    """Half as much in each further quarter of training."""

    def lr(self, step, total_steps, bounds):
        return bounds.max_lr / 2 ** (4 * step // total_steps)


class Exponential(Schedule):
    """``max_lr * exp(-k t)``, a hundredth at the end."""

    def lr(self, step, total_steps, bounds):
        return bounds.max_lr * 0.01 ** (step / (total_steps - 1))


SGD = partial(torch.optim.SGD, momentum=0.9)
RUNS = {
    "constant": (SGD, Constant()),
    "time-based decay": (SGD, TimeBased()),
    "step decay": (SGD, Steps()),
    "exponential decay": (SGD, Exponential()),
    "triangular": (SGD, Cyclic(cycles=3)),
    "triangular2": (SGD, Cyclic(cycles=3, mode="triangular2")),
    "exp_range": (SGD, Cyclic(cycles=3, mode="exp_range", gamma=0.98)),
    "1cycle": (SGD, OneCycle()),
    "Adagrad": (torch.optim.Adagrad, Constant()),
    "Adadelta": (torch.optim.Adadelta, Constant()),
    "RMSprop": (torch.optim.RMSprop, Constant()),
    "Adam": (torch.optim.Adam, Constant()),
}


class AnyOptimizer(Classifier):
    """The network of ``digits.py`` with another optimizer."""

    def __init__(self, optimizer, schedule, lr_bounds=None):
        super().__init__(digits_network(), schedule, lr_bounds)
        self.optimizer = optimizer

    def configure_optimizers(self):
        return self.with_schedule(self.optimizer(self.parameters(), lr=0.01))


def bounds_of(optimizer, steps):
    """By a range test before a training of so many steps."""
    seed_everything(0, verbose=False)
    test = lr_range_test(quiet_trainer(steps), AnyOptimizer(optimizer, Constant()), *batches(digits(), 32))
    return test.bounds or LRBounds(0.001, 0.01)


def run(name, bounds, steps, seed, validations):
    """Train once."""
    seed_everything(seed, verbose=False)
    return train(AnyOptimizer(*RUNS[name], bounds), digits(), steps, 32, validations)


def panel(axis, name, runs):
    """Learning rate, and accuracy in the background."""
    history = runs[0]
    axis.plot(history.lrs, color="black")
    axis.set(title=f"{name}: {final(runs):.1f} %", ylim=(0, 1.1 * max(history.lrs)))
    axis.tick_params(labelsize="small")
    accuracy = axis.twinx()
    accuracy.plot(history.steps, history.accuracies, "--", color=BLUE, linewidth=1.2)
    accuracy.set(ylim=(0, 105), yticks=[])


def final(runs):
    """Mean accuracy at the end."""
    return statistics.mean(history.accuracies[-1] for history in runs)


def main(steps=200, seeds=3, validations=15, names=tuple(RUNS)):
    """Test, train, print, draw; returns the learning rates and mean accuracies."""
    torch.set_num_threads(1)
    bounds = {optimizer: bounds_of(optimizer, steps) for optimizer in {RUNS[name][0] for name in names}}
    figure, axes = panels(-(-len(names) // 4), 4, width=10, height=6.5, squeeze=False)
    results = {}
    print(f"| schedule | highest rate | accuracy after {steps} steps, mean of {seeds} |\n|---|---|---|")
    for axis, name in zip(axes.flat, names, strict=False):
        runs = [run(name, bounds[RUNS[name][0]], steps, seed, validations) for seed in range(seeds)]
        panel(axis, name, runs)
        results[name] = runs[0].lrs, final(runs)
        print(f"| {name} | {max(results[name][0]):.2g} | {final(runs):.1f} % |")
    figure.supylabel("learning rate (solid); test accuracy (dashed, 0 to 105 %)", fontsize="medium")
    figure.supxlabel("optimizer step", fontsize="medium")
    save(figure, "schedules")
    return results


if __name__ == "__main__":
    main()
