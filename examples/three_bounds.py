"""Smith's own range test on CIFAR-10, beside two searches, and what 1cycle and cycles bring between their bounds.

Smith (2017, section 3.3 and Figure 3) trains Caffe's small network for eight epochs while the learning rate rises
linearly from 0 to 0.02, and draws the test accuracy over it: 0.001, since learning starts right away, and 0.006, above
which the rise gets rough. Here is that sweep, with his two points, with those that ``smith_search`` reads off it, and
with those of the default search, which looks at a short sweep of the training loss over many decades. Between each pair
the network is trained by ``OneCycle()`` and by ``Cyclic(cycles=4)``, from the same initial weights.

Learning rates are Caffe's: those of the weights. Biases learn twice as fast, and a range test tells the learning rate
of the fastest group; hence the twos.

    python examples/three_bounds.py                     # scikit-learn's digits, seconds
    python examples/three_bounds.py --cifar DATA        # twenty minutes on one core
    python examples/three_bounds.py --cifar DATA --recorded three_bounds_cifar.json    # only the default search anew
    python examples/three_bounds.py --recorded three_bounds_cifar.json                 # only the picture

Prints a table and writes ``three_bounds.svg``, with CIFAR-10 ``three_bounds_cifar.svg`` and ``.json``.
"""

import argparse
import statistics

import torch
from clr_against_fixed import SIZE, CaffeClassifier, as_caffe, caffe_network
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
from pytorch_lightning import seed_everything

from lightning_clr import Cyclic, LRBounds, OneCycle, lr_range_test
from lightning_clr.search import smith_search

HIGHEST = 0.02  # of Figure 3
SMITH, READ, DEFAULT = "Smith's figure", "smith_search", "LRRangeTest()"
LOOKS = {SMITH: (DARK, "-", "o"), READ: (BLUE, "--", "s"), DEFAULT: (RED, "-.", "^")}
SCHEDULES = {"1cycle": OneCycle(), "four cycles": Cyclic(cycles=4)}


def classifier(data, schedule, bounds, seed):
    """The network with its initial weights, on digits larger ones."""
    seed_everything(seed, verbose=False)
    _, channels, side, _ = data[0].tensors[0].shape
    module = CaffeClassifier(caffe_network(channels, side, 1 if channels == 3 else SIZE), schedule, bounds)
    module.network.to(memory_format=torch.channels_last)  # twice as fast on a CPU
    return module


def smiths_sweep(data, steps, validations, bar):
    """Accuracy against a linearly rising learning rate; returns the curve and the bounds read off it."""
    result = lr_range_test(
        quiet_trainer(steps, enable_progress_bar=bar), classifier(data, Cyclic(cycle_momentum=False), None, 0),
        *batches(data, 100), search=smith_search, mode="linear", min_lr=2 * HIGHEST / steps, max_lr=2 * HIGHEST,
        num_steps=steps, monitor="val_acc", monitor_mode="max", val_every_n_steps=steps // validations,
        stop_factor=None,
    )  # fmt: skip
    return curve_of(result), bounds_of(result)


def default_search(data, steps, bar):
    """The test that is run by default, before a training of so many steps."""
    trainer = quiet_trainer(steps, enable_progress_bar=bar)
    result = lr_range_test(trainer, classifier(data, OneCycle(), None, 0), *batches(data, 100))
    return curve_of(result) | {"summary": result.summary()}, bounds_of(result)


def curve_of(result):
    """The first curve, in learning rates of the weights."""
    return {"lrs": [lr / 2 for lr in result.lrs], "values": result.values, "smoothed": result.smoothed}


def bounds_of(result):
    """Both bounds, in learning rates of the weights."""
    print(result.summary(), "of the biases, half of it of the weights")
    return result.bounds and [result.bounds.base_lr / 2, result.bounds.max_lr / 2]


def trained(data, bounds, steps, seeds, bar):
    """Test accuracies between two bounds, by schedule and seed."""
    return {
        name: [
            train(classifier(data, schedule, LRBounds(*bounds), seed), data, steps, 100, 1, enable_progress_bar=bar)
            .accuracies[-1]
            for seed in range(seeds)
        ]
        for name, schedule in SCHEDULES.items()
    }  # fmt: skip


def picture(found, what):
    """Smith's curve over the three pairs of bounds; what they bring."""
    figure, (left, right) = panels(1, 2, height=4.2, width_ratios=[1.7, 1])
    sweep = found["sweep"]
    percent = [[100 * value for value in sweep[kind]] for kind in ("values", "smoothed")]
    left.plot(sweep["lrs"], percent[0], ".", color="0.7", markersize=3)
    left.plot(sweep["lrs"][: len(percent[1])], percent[1], color=GOLD)
    for height, (name, bounds) in enumerate(found["bounds"].items()):
        if bounds:
            color, style, marker = LOOKS[name]
            label = f"{name}: {bounds[0]:.2g} to {bounds[1]:.2g}"
            left.plot(bounds, [-4 - 4 * height] * 2, style, marker=marker, color=color, label=label)
    left.set(xlabel="learning rate", ylabel="test accuracy, %", title=f"Smith's range test on {what}")
    left.set(xlim=(-0.02 * HIGHEST, 1.02 * HIGHEST), xticks=[0.001, 0.006, 0.01, 0.015, 0.02])
    left.set(ylim=(-16, 5 + max(percent[0])), yticks=range(0, int(max(percent[0])) + 5, 10))
    left.legend(loc="lower right", bbox_to_anchor=(1, 0.17))

    for place, name in enumerate(found["accuracies"]):
        for shift, (kind, marker) in enumerate(zip(SCHEDULES, "os", strict=True)):
            finals = found["accuracies"][name][kind]
            xs = [place + 0.3 * shift - 0.15] * len(finals)
            filled = {"markerfacecolor": "none"} if shift else {}
            right.plot(xs, finals, marker, color=LOOKS[name][0], label=kind if not place else None, **filled)
    ticks = [
        name.replace("Smith's ", "Smith's\n").replace("_", "_\n").replace("Test", "\nTest")
        for name in found["accuracies"]
    ]
    right.set_xticks(range(len(ticks)), ticks)
    right.set(ylabel="test accuracy, %", title=f"after {found['run_steps']:,} steps", xlim=(-0.5, place + 0.5))
    right.legend()
    return figure


def measure(found, cifar, name, sweep_steps, run_steps, validations, seeds):
    """Do what is not in ``found`` yet, and the default search in any case."""
    data = as_caffe(digits() if cifar is None else cifar10(cifar, test=2_000))
    bar = cifar is not None
    found |= {"run_steps": run_steps} | found

    def train_between(which):
        if found["bounds"][which]:
            found["accuracies"][which] = trained(data, found["bounds"][which], found["run_steps"], seeds, bar)
        if bar:
            record(name, "python examples/three_bounds.py --cifar FOLDER, on one core of a CPU", found)

    if "sweep" not in found:
        found |= {"bounds": {SMITH: [0.001, 0.006]}, "accuracies": {}}
        found["sweep"], found["bounds"][READ] = smiths_sweep(data, sweep_steps, validations, bar)
        train_between(SMITH)
        train_between(READ)
    found["default"], found["bounds"][DEFAULT] = default_search(data, found["run_steps"], bar)
    train_between(DEFAULT)


def main(cifar=None, recorded=None, sweep_steps=400, run_steps=100, validations=100, seeds=1):
    """Sweep, search, train, print, draw; returns what was found."""
    torch.set_num_threads(1)
    name = "three_bounds" if cifar is None and recorded is None else "three_bounds_cifar"
    found = read_record(recorded) if recorded else {}
    if cifar is not None:
        print("Takes about", "eight" if found else "twenty", "minutes on one core.", flush=True)
        measure(found, cifar, name, 4_000, 1_000, validations, seeds)
    elif not found:
        measure(found, cifar, name, sweep_steps, run_steps, validations, seeds)

    print("| bounds | base_lr | max_lr |" + "".join(f" {kind} |" for kind in SCHEDULES))
    print("|---|---|---|" + "---|" * len(SCHEDULES))
    for which, finals in found["accuracies"].items():
        means = "".join(f" {statistics.mean(finals[kind]):.1f} % |" for kind in SCHEDULES)
        print(f"| {which} | {found['bounds'][which][0]:.2g} | {found['bounds'][which][1]:.2g} |{means}")
    save(picture(found, "digits" if name == "three_bounds" else "CIFAR-10"), name)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar", metavar="FOLDER", help="where cifar-10-batches-py is")
    parser.add_argument("--recorded", metavar="FILE", help="take all but the default search from here")
    parser.add_argument("--seeds", type=int, default=2)
    main(**vars(parser.parse_args()))
