"""Super-convergence as Smith and Topin measured it: ResNet-56 on CIFAR-10, 0.1 to 3, 10,000 steps. For a GPU.

Super-Convergence (2018), Table 1 and section 4: 92.4 % with one cycle in 10,000 iterations, 91.2 % with the usual
piecewise constant rate of 0.35 in 80,000; batches of 1,000, weight decay 0.0001, momentum 0.9, images only mirrored,
batch normalization whose averages follow by 0.05 a step. These were single runs; the baseline's own logs end at 90.3 %.

Here both policies are as long, 10,000 steps or ``--steps``. On a GPU: bfloat16, channels last, compiled, and the images
stay on the device. ``--fast`` asks for the first three elsewhere.

    python examples/resnet56.py --cifar DATA                              # 1cycle
    python examples/resnet56.py --cifar DATA --policy found               # 1cycle between the bounds of a range test
    python examples/resnet56.py --cifar DATA --policy piecewise           # as many steps
    python examples/resnet56.py --cifar DATA --policy piecewise --steps 80000
    python examples/resnet56.py --steps 2 --batch_size 16 --device cpu --fast    # on noise, to see that it runs

Writes ``resnet56_<policy>.json``: the test accuracy twenty times on the way.
"""

import argparse

import torch
from common import Mirrored, Piecewise, batches, cifar10, quiet_trainer, record, residual_network, train
from pytorch_lightning import seed_everything
from torch.utils.data import TensorDataset

from lightning_clr import Cyclic, LRBounds, lr_range_test


def noise(number):
    """Images and classes without a relation, in the shape of CIFAR-10."""
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.rand(number, 3, 32, 32, generator=draw), torch.randint(0, 10, (number,), generator=draw))
    return data, data


# the paper's cycle: up and down in 10,000 steps, no momentum cycle
CYCLE = Cyclic(cycles=1, cycle_momentum=False)
POLICIES = {
    "1cycle": (CYCLE, LRBounds(0.1, 3.0)),
    "found": (CYCLE, None),
    "piecewise": (Piecewise(), LRBounds(0.35, 0.35)),
}


def classifier(schedule, bounds, fast):
    """ResNet-56 with the paper's optimizer."""
    seed_everything(0, verbose=False)
    network = residual_network(norm_momentum=0.05)
    if fast:
        network = torch.compile(network.to(memory_format=torch.channels_last))
    return Mirrored(network, schedule, bounds, lr=bounds.max_lr if bounds else 0.1, weight_decay=1e-4)


def found_bounds(data, steps, batch_size, fast, **how):
    """Those of the default range test before a training of so many steps."""
    trainer = quiet_trainer(steps, **how)
    loaders = batches(data, batch_size, device=trainer.strategy.root_device)
    result = lr_range_test(trainer, classifier(CYCLE, None, fast), *loaders)
    print(result.summary(), flush=True)
    return result.bounds


def main(cifar=None, policy="1cycle", steps=10_000, device="auto", batch_size=1000, fast=None):
    """Train once, print and return the test accuracy in per cent."""
    fast = torch.cuda.is_available() and device != "cpu" if fast is None else fast
    if cifar is not None:
        print(f"{steps:,} steps of ResNet-56 take", "minutes." if fast else "days without a GPU.", flush=True)
    schedule, bounds = POLICIES[policy]
    data = noise(batch_size) if cifar is None else cifar10(cifar)
    how = {"accelerator": device, "precision": "bf16-mixed" if fast else "32-true", "enable_progress_bar": True}
    if policy == "found":
        bounds = found_bounds(data, steps, batch_size, fast, **how)
    history = train(classifier(schedule, bounds, fast), data, steps, batch_size, 20, **how)
    what = "noise in the shape of CIFAR-10, which nothing can learn" if cifar is None else "CIFAR-10"
    print(f"ResNet-56, {policy}, {steps:,} steps on {what}: {history.accuracies[-1]:.1f} %")
    rates = bounds and [bounds.base_lr, bounds.max_lr]
    numbers = {"steps": history.steps, "accuracies": history.accuracies, "bounds": rates}
    record(f"resnet56_{policy}", f"python examples/resnet56.py --policy {policy} --steps {steps}, on {what}", numbers)
    return history.accuracies[-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar", metavar="FOLDER", help="where cifar-10-batches-py is; without it, noise")
    parser.add_argument("--policy", choices=POLICIES, default="1cycle")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch_size", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fast", action="store_true", default=None, help="bfloat16, channels last, compiled")
    main(**vars(parser.parse_args()))
