"""Cyclical learning rates against a fixed one: the figure that the article opens with.

Smith (2017, Figure 1 and Table 1) trains Caffe's small CIFAR-10 network to 81.4 % test accuracy, in 70,000 iterations
with a fixed learning rate and its two drops, and in 25,000 with CLR. (The article calls that training accuracy.) The
CLR run is no plain triangular policy but has three stages of whole cycles, each at a tenth of the learning rates
before (Table 2):

    0.001 to 0.005      stepsize 2,000   until iteration 16,000
    0.0001 to 0.0005    stepsize 1,000   until iteration 22,000
    0.00001 to 0.00005  stepsize 500     until iteration 25,000

Here are that network with its initial weights, its decay and its doubled learning rate of the biases, that fixed
baseline (0.001, from 60,000 a tenth, from 65,000 a hundredth), these stages, and Smith's control ``decay`` (once down
from the upper to the lower bound over one stepsize, then constant; section 4.1.1). Images are 0 to 255 less their
mean, in batches of 100. By the same code:

    python examples/clr_against_fixed.py                              # scikit-learn's digits, lengths over 100
    python examples/clr_against_fixed.py --cifar DATA --device gpu    # the real thing
    python examples/clr_against_fixed.py --recorded docs/clr_against_fixed_cifar.json    # its picture, from a record

Prints a table and writes ``clr_against_fixed.svg``, with CIFAR-10 ``clr_against_fixed_cifar.svg`` and ``.json``.
"""

import argparse
import statistics
from dataclasses import dataclass

import torch
from common import BLUE, DARK, GOLD, RED, Classifier, cifar10, digits, panels, read_record, record, save, train
from pytorch_lightning import seed_everything
from torch import nn
from torch.utils.data import TensorDataset

from lightning_clr import Cyclic, LRBounds, Schedule, ScheduleLR

BOUNDS = LRBounds(0.001, 0.005)
SIZE = 5  # of the initial weights, in short runs: with the paper's nothing is learned in 700 steps
FIXED_STEPS, CLR_STEPS = 70_000, 25_000
STAGES = {0: 2_000, 16_000: 1_000, 22_000: 500}  # their first iterations and step sizes


class WithinChannel(nn.Module):
    """Caffe's local response normalization within each channel."""

    def forward(self, images):
        return images / (1 + 5e-5 * nn.functional.avg_pool2d(images**2, 3, 1, 1)) ** 0.75


def caffe_network(channels, side, size=1.0):
    """Caffe's ``cifar10_full``; its pools round up. Weights start ``size`` times as large as there."""
    convolutions = [
        nn.Conv2d(inputs, outputs, 5, padding=2) for inputs, outputs in ((channels, 32), (32, 32), (32, 64))
    ]
    for _ in range(3):
        side = -(-(side - 3) // 2) + 1
    last = nn.Linear(64 * side**2, 10)
    for layer, std in zip([*convolutions, last], (1e-4, 0.01, 0.01, 0.01), strict=True):
        nn.init.normal_(layer.weight, std=size * std)
        nn.init.zeros_(layer.bias)
    first, second, third = convolutions
    return nn.Sequential(
        first, nn.MaxPool2d(3, 2, ceil_mode=True), nn.ReLU(), WithinChannel(),
        second, nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True), WithinChannel(),
        third, nn.ReLU(), nn.AvgPool2d(3, 2, ceil_mode=True), nn.Flatten(), last,
    )  # fmt: skip


class CaffeClassifier(Classifier):
    """Biases learn twice as fast and do not decay in the last layer, whose weights decay most."""

    def configure_optimizers(self):
        weights = [p for name, p in self.network.named_parameters() if name.endswith("weight")]
        biases = [p for name, p in self.network.named_parameters() if name.endswith("bias")]
        groups = [
            {"params": weights[:-1], "weight_decay": 0.004},
            {"params": weights[-1:], "weight_decay": 1.0},
            {"params": biases[:-1], "weight_decay": 0.004, "lr": 2 * BOUNDS.max_lr},
            {"params": biases[-1:], "lr": 2 * BOUNDS.max_lr},
        ]
        optimizer = torch.optim.SGD(groups, lr=BOUNDS.max_lr, momentum=0.9)
        total_steps = self.trainer.max_steps
        scheduler = ScheduleLR(optimizer, self.schedule, total_steps, self.lr_bounds, reference_lr=BOUNDS.max_lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@dataclass(frozen=True)
class Fixed(Schedule):
    """``base_lr``, and at the end a tenth and a hundredth of it."""

    scale: float = 1

    def lr(self, step, total_steps, bounds):
        """Dropped after 60,000 and 65,000 steps of the paper."""
        drops = (step >= 60_000 // self.scale) + (step >= 65_000 // self.scale)
        return bounds.base_lr / 10**drops


@dataclass(frozen=True)
class Decay(Schedule):
    """Smith's control: once down from ``max_lr`` in 2,000 steps of the paper, and no cycle."""

    scale: int = 1

    def lr(self, step, total_steps, bounds):
        """Linear, then constant."""
        height = max(0.0, 1 - step / (2_000 // self.scale))
        return bounds.base_lr + (bounds.max_lr - bounds.base_lr) * height


@dataclass(frozen=True)
class Stages(Schedule):
    """Table 2: four, three and three triangular cycles, each stage at a tenth of the learning rates before."""

    scale: int = 1

    def lr(self, step, total_steps, bounds):
        """Within its stage, the triangular policy."""
        step = min(step, CLR_STEPS // self.scale - 1)
        starts = [start for start in STAGES if start // self.scale <= step]
        cycle = Cyclic(step_size=STAGES[starts[-1]] // self.scale)
        return cycle.lr(step - starts[-1] // self.scale, None, bounds) / 10 ** (len(starts) - 1)


RUNS = {
    "fixed": (Fixed, FIXED_STEPS, DARK, "-"),
    "CLR, three stages": (Stages, CLR_STEPS, BLUE, "--"),
    "decay, no cycle": (Decay, CLR_STEPS, RED, ":"),
    "fixed, as long as CLR": (Fixed, CLR_STEPS, GOLD, "-."),
}


def as_caffe(data):
    """From 0 to 255, less the mean of the training images."""
    train_data, test_data = data
    mean = train_data.tensors[0].mean(0)
    return tuple(TensorDataset(255 * (images - mean), classes) for images, classes in (train_data[:], test_data[:]))


def run(data, name, scale, seed, device, validations):
    """Train once."""
    kind, steps, *_ = RUNS[name]
    seed_everything(seed, verbose=False)
    _, channels, side, _ = data[0].tensors[0].shape
    # the baseline that is as long as CLR drops at the same parts of its length
    own_scale = scale * FIXED_STEPS / CLR_STEPS if name == "fixed, as long as CLR" else scale
    module = CaffeClassifier(caffe_network(channels, side, SIZE if scale > 1 else 1), kind(own_scale), BOUNDS)
    bar = channels == 3  # digits take seconds
    history = train(module, data, steps // scale, 100, validations, accelerator=device, enable_progress_bar=bar)
    return {"steps": history.steps, "accuracies": history.accuracies}


def picture(curves, title):
    """Accuracy over steps, the mean over seeds."""
    figure, axes = panels(height=4.2)
    for name, runs in curves.items():
        _, _, color, style = RUNS[name]
        mean = [statistics.mean(values) for values in zip(*(run["accuracies"] for run in runs), strict=True)]
        axes.plot(runs[0]["steps"], mean, style, color=color, label=f"{name}: {mean[-1]:.1f} %")
    axes.set(xlabel="optimizer step", ylabel="test accuracy, %", title=title)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="lower right")
    return figure


def main(cifar=None, device="cpu", scale=None, seeds=3, validations=50, recorded=None):
    """Train all runs, print the table, draw; returns the mean final accuracies."""
    torch.set_num_threads(1)
    real = cifar is not None or recorded is not None
    scale = scale or (1 if real else 100)
    if recorded is not None:
        curves = read_record(recorded)
    else:
        if real and scale == 1:
            print("145,000 steps a seed: takes minutes on a GPU, hours on a CPU.", flush=True)
        data = as_caffe(cifar10(cifar) if real else digits())
        curves = {name: [run(data, name, scale, seed, device, validations) for seed in range(seeds)] for name in RUNS}
    name = "clr_against_fixed" + "_cifar" * real
    if cifar is not None:
        record(name, f"python examples/clr_against_fixed.py --cifar FOLDER --device {device} --scale {scale}", curves)

    what = "CIFAR-10" if real else "digits of scikit-learn"
    what += f", lengths over {scale}" if scale > 1 else ""
    print(what)
    print("| run | steps | seeds | test accuracy |\n|---|---|---|---|")
    finals = {}
    for kind, runs in curves.items():
        final = [run["accuracies"][-1] for run in runs]
        finals[kind] = statistics.mean(final)
        spread = f" ({min(final):.1f} to {max(final):.1f})" if len(final) > 1 else ""
        print(f"| {kind} | {RUNS[kind][1] // scale:,} | {len(runs)} | {finals[kind]:.1f} %{spread} |")
    save(picture(curves, f"Caffe's small network on {what}"), name)
    return finals


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar", metavar="FOLDER", help="where cifar-10-batches-py is")
    parser.add_argument("--device", default="cpu", help="cpu or gpu")
    parser.add_argument("--scale", type=int, help="divide all lengths by this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recorded", metavar="FILE", help="draw the runs of this record")
    main(**vars(parser.parse_args()))
