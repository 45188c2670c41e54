"""1cycle with a large learning rate: the signature of super-convergence, and how much sooner it is done.

One cycle shorter than training, then annihilation far below the initial rate, and momentum the other way, 0.95 to
0.85 to 0.95 (Smith and Topin 2018, section 3; Smith 2018, section 4.1): ``OneCycle(anneal="smith")`` is the policy of
Smith's own training logs. Accuracy rises sharply, falls while the learning rate is large, and rises for a second time.
Trained piecewise, at a constant rate that drops to a tenth after 5/8 and again after 7/8, it just rises.

That picture reproduces here, on 300 digits and a residual network of ten layers, with a cycle from 0.035 to 0.35; only
that the second rise begins before the rate goes down. That training is ten times shorter (ResNet-56 on CIFAR-10: 92.4 %
in 10,000 iterations against 91.2 % in 80,000, see ``resnet56.py``) does not: so small a task is learned by a well
chosen constant rate in as few steps. The table that is printed tells by how much; Smith's own 0.1 to 3 is too large for
it.

On CIFAR-10 it is run at a size for one core: 5,000 images, mirrored, ResNet-8, 100 and 300 steps with batches of 100.
The paper's are of 1,000, so that its rates over ten stand beside its own, and the bounds of ``LRRangeTest()`` beside
both. A second table asks whether a large learning rate needs less weight decay.

    python examples/super_convergence.py
    python examples/super_convergence.py --cifar DATA                                 # six minutes on one core
    python examples/super_convergence.py --recorded super_convergence_cifar.json      # its picture, from a record

Prints the tables and writes ``super_convergence.svg``, with CIFAR-10 ``super_convergence_cifar.svg`` and ``.json``.
"""

import argparse
import statistics

import torch
from common import (
    BLUE,
    DARK,
    Classifier,
    Mirrored,
    Piecewise,
    batches,
    cifar10,
    digits,
    panels,
    quiet_trainer,
    read_record,
    record,
    residual_network,
    save,
    train,
)
from pytorch_lightning import seed_everything

from lightning_clr import LRBounds, OneCycle, lr_range_test

SMITH = OneCycle(anneal="smith", pct_start=0.45, final_div_factor=1000)
FOUND = "1cycle, found"
DIGITS = {
    "piecewise, 0.1": (Piecewise(), LRBounds(0.1, 0.1)),
    "piecewise, 0.35": (Piecewise(), LRBounds(0.35, 0.35)),
    "1cycle, 0.035 to 0.35": (SMITH, LRBounds(0.035, 0.35)),
    "1cycle, 0.1 to 3": (SMITH, LRBounds(0.1, 3.0)),
}
CIFAR = {
    "piecewise, 0.1": (Piecewise(), LRBounds(0.1, 0.1)),
    "piecewise, 0.35": (Piecewise(), LRBounds(0.35, 0.35)),
    "1cycle, 0.01 to 0.3": (SMITH, LRBounds(0.01, 0.3)),
    "1cycle, 0.1 to 1": (SMITH, LRBounds(0.1, 1.0)),
    "1cycle, 0.1 to 3": (SMITH, LRBounds(0.1, 3.0)),
}
SHOWN = {False: ("1cycle, 0.035 to 0.35", "piecewise, 0.1"), True: ("1cycle, 0.01 to 0.3", "piecewise, 0.1")}
DECAYS = (1e-4, 1e-3, 1e-2)


def network(data):
    """Ten layers in two stages for digits, eight in three for CIFAR-10."""
    if data[0][0][0].shape[0] == 1:
        return residual_network(channels=1, blocks=2, stages=2, norm_momentum=0.1)
    return residual_network(blocks=1, norm_momentum=0.1).to(memory_format=torch.channels_last)


def classifier(data, schedule, bounds, weight_decay, seed):
    """The network with its optimizer; images of CIFAR-10 are mirrored."""
    seed_everything(seed, verbose=False)
    kind = Classifier if data[0][0][0].shape[0] == 1 else Mirrored
    lr = bounds.max_lr if bounds else 0.1
    return kind(network(data), schedule, bounds, lr=lr, weight_decay=weight_decay)


def run(data, policy, steps, seed, validations, weight_decay=1e-4, bar=False):
    """Train once."""
    module = classifier(data, *policy, weight_decay, seed)
    return train(module, data, steps, 100, validations, enable_progress_bar=bar)


def found_bounds(data, steps):
    """Those of the default range test before a training of so many steps."""
    trainer = quiet_trainer(steps, enable_progress_bar=True)
    result = lr_range_test(trainer, classifier(data, SMITH, None, 1e-4, 0), *batches(data, 100))
    print(result.summary())
    return result.bounds


def picture(runs, title):
    """Accuracies of both policies, and below the learning rate and momentum of 1cycle."""
    figure, (upper, lower) = panels(2, height=5.6, height_ratios=[1.7, 1], sharex=True)
    for (name, history), color, style in zip(runs.items(), (BLUE, DARK), "-:", strict=True):
        upper.plot(history["steps"], history["accuracies"], style, color=color, label=name)
        lower.plot(range(len(history["lrs"])), history["lrs"], style, color=color)
    upper.set(ylabel="test accuracy, %", title=title)
    upper.legend(loc="lower right")
    lower.set(ylabel="learning rate", xlabel="optimizer step")
    momentum = lower.twinx()
    momentum.plot(next(iter(runs.values()))["momenta"], "--", color=BLUE, linewidth=1)
    momentum.spines["right"].set_visible(True)
    momentum.set(ylabel="momentum (dashed)", ylim=(0.84, 0.96))
    return figure


def table(columns, rows):
    """Print it."""
    print("| policy |" + "".join(f" {column} |" for column in columns))
    print("|---|" + "---|" * len(columns))
    for name, row in rows.items():
        print(f"| {name} |" + "".join(f" {value:.1f} % |" for value in row))


def measure(data, policies, shown, lengths, shown_steps, seeds):
    """The runs that are drawn, and the table of lengths."""
    histories = {name: run(data, policies[name], shown_steps, 0, shown_steps // 5).numbers() for name in shown}
    finals = {
        name: [
            statistics.mean(run(data, policy, steps, seed, 1).accuracies[-1] for seed in range(seeds))
            for steps in lengths
        ]
        for name, policy in policies.items()
    }
    return {"runs": histories, "lengths": lengths, "finals": finals}


def measure_cifar(folder, short, long):
    """One seed of two lengths, with found bounds, too, and the table of weight decays."""
    print("Takes about six minutes on one core.", flush=True)
    data = cifar10(folder, train=5_000, test=2_000)
    bounds = found_bounds(data, long)
    policies = CIFAR | ({FOUND: (SMITH, bounds)} if bounds else {})

    def final(policy, steps, weight_decay=1e-4):
        return run(data, policy, steps, 0, 1, weight_decay, True).accuracies[-1]

    histories = {name: run(data, policy, long, 0, 20, bar=True).numbers() for name, policy in policies.items()}
    ends = {name: history["accuracies"][-1] for name, history in histories.items()}
    numbers = {
        "found": bounds and [bounds.base_lr, bounds.max_lr],
        "runs": {name: histories[name] for name in SHOWN[True]},
        "lengths": [short, long],
        "finals": {name: [final(policy, short), ends[name]] for name, policy in policies.items()},
        "weight_decays": {
            name: [ends[name], *(final(CIFAR[name], long, decay) for decay in DECAYS[1:])]
            for name in ("piecewise, 0.1", "1cycle, 0.1 to 1")
        },
    }
    record("super_convergence_cifar", "python examples/super_convergence.py --cifar FOLDER, on one core", numbers)
    return numbers


def main(cifar=None, recorded=None, lengths=(40, 80, 160), shown_steps=160, seeds=3):
    """Train, print, draw; returns the histories that are drawn."""
    torch.set_num_threads(1)
    real = cifar is not None or recorded is not None
    if recorded is not None:
        numbers = read_record(recorded)
    elif real:
        numbers = measure_cifar(cifar, 100, 300)
    else:  # large learning rates gain most where data are few
        numbers = measure(digits(300), DIGITS, SHOWN[False], lengths, shown_steps, seeds)
    what = "5,000 images of CIFAR-10" if real else "300 digits"
    steps = len(numbers["runs"][SHOWN[real][0]]["lrs"])
    title = f"the signature of super-convergence, {steps} steps on {what}"
    save(picture(numbers["runs"], title), "super_convergence" + "_cifar" * real)

    print("test accuracy,", what)
    table([f"{length} steps" for length in numbers["lengths"]], numbers["finals"])
    if real:
        table([f"weight decay {decay:g}" for decay in DECAYS], numbers["weight_decays"])
    return numbers["runs"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar", metavar="FOLDER", help="where cifar-10-batches-py is")
    parser.add_argument("--recorded", metavar="FILE", help="draw the numbers of this record")
    main(**vars(parser.parse_args()))
