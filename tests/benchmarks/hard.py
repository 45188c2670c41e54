"""Does training between the found bounds stay sane where losses are odd? ``python tests/benchmarks/hard.py``.

Each kind is trained by 1cycle between the bounds of a default ``LRRangeTest()``, with SGD and with Adam. Sane is what
ends finite, and not worse on its training data than it began.
"""

import argparse
import functools
import math
import sys
from collections.abc import Callable

import torch
from finders import range_test
from runs import set_lr
from tasks import Data, Task, adam, digits, sgd
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_clr import LRBounds, OneCycle


def mlp(inputs: int = 64, outputs: int = 10, depth: int = 2) -> nn.Sequential:
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(nn.Linear(inputs, 64), nn.ReLU(), *hidden, nn.Linear(64, outputs))


def regression(noise: Callable[[int], Tensor], samples: int = 1024) -> Data:
    """Eight columns, and their sum with some noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 8, generator=generator)
    torch.manual_seed(1)
    y = x.sum(1, keepdim=True) / 8**0.5 + noise(samples)[:, None]
    return x, y, x, y


def none(samples: int) -> Tensor:
    return torch.zeros(samples)


def student(degrees: float) -> Callable[[int], Tensor]:
    return lambda samples: torch.distributions.StudentT(degrees).sample((samples,))


def few(samples: int) -> Data:
    x, y, *_ = digits()
    return x[:samples], y[:samples], x[:samples], y[:samples]


def at_zero() -> Data:
    x, _, *_ = regression(none)
    return x, torch.zeros(len(x), 1), x, torch.zeros(len(x), 1)


class Zero(nn.Module):
    """Predicts zero, which is right, until its weights are moved."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(8, 1)
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def quartic(prediction: Tensor, target: Tensor) -> Tensor:
    return ((prediction - target) ** 4).mean()


def negative(prediction: Tensor, target: Tensor) -> Tensor:
    """A likelihood that is below zero once something is learned."""
    return F.mse_loss(prediction, target) - 3


def scaled(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda prediction, target: factor * F.cross_entropy(prediction, target)


small = functools.partial(mlp, 8, 1)
KINDS: dict[str, dict[str, object]] = {
    "no noise, one batch of all": {"data": lambda: regression(none, 64), "model": small, "loss": F.mse_loss},
    "no noise, batches": {"data": lambda: regression(none), "model": small, "loss": F.mse_loss},
    "linear, no noise": {"data": lambda: regression(none), "model": lambda: nn.Linear(8, 1), "loss": F.mse_loss},
    "loss is zero": {"data": at_zero, "model": Zero, "loss": F.mse_loss},
    "Student-t, 1.5 degrees": {"data": lambda: regression(student(1.5)), "model": small, "loss": F.mse_loss},
    "Student-t, 2.5 degrees": {"data": lambda: regression(student(2.5)), "model": small, "loss": F.mse_loss},
    "fourth power": {"data": lambda: regression(student(5.0)), "model": small, "loss": quartic},
    "random labels": {"data": lambda: digits(noise=1.0), "model": mlp, "loss": F.cross_entropy},
    "one batch over and over": {"data": lambda: few(32), "model": mlp, "loss": F.cross_entropy},
    "batches of one": {"data": lambda: few(200), "model": mlp, "loss": F.cross_entropy, "batch_size": 1},
    "negative loss": {"data": lambda: regression(none), "model": small, "loss": negative},
    "loss times 10,000": {"data": digits, "model": mlp, "loss": scaled(1e4)},
    "loss times 1e-4": {"data": digits, "model": mlp, "loss": scaled(1e-4)},
    "short training": {"data": digits, "model": mlp, "loss": F.cross_entropy, "steps": 60},
    "long training": {"data": digits, "model": mlp, "loss": F.cross_entropy, "steps": 3000},
}
OPTIMIZERS = {"SGD": sgd(0.9), "Adam": adam()}


def train(task: Task, seed: int, bounds: LRBounds) -> tuple[float, float]:
    """Loss on the training data before and after; infinite if it has diverged."""
    model, optimizer, batches = task.start(seed)
    x, y, *_ = task.data()
    with torch.no_grad():
        before = task.loss(model(x), y).item()
    for step in range(task.steps):
        set_lr(optimizer, OneCycle().lr(step, task.steps, bounds), OneCycle().momentum(step, task.steps))
        if not math.isfinite(task.train_step(model, optimizer, next(batches))):
            return before, math.inf
    with torch.no_grad():
        return before, task.loss(model(x), y).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", help="only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = {"sane": 0, "declined": 0, "worse": 0, "NaN": 0}
    sys.stdout.write("| kind | optimizer | max_lr | outcome | loss before and after |\n|---|---|---|---|---|\n")
    for kind, settings in KINDS.items():
        if options.kinds and kind not in options.kinds:
            continue
        for name, optimizer in OPTIMIZERS.items():
            task = Task(name=kind, split="test", optimizer=optimizer, accuracy=False, **settings)  # type: ignore[arg-type]
            for seed in range(options.seeds):
                result = range_test(task, seed)
                outcome, losses = "declined", ""
                if result.bounds is not None:
                    before, after = train(task, seed, result.bounds)
                    is_sane = after <= before + 1e-3 * abs(before) + 1e-3
                    outcome = "sane" if is_sane else "worse" if math.isfinite(after) else "NaN"
                    losses = f"{before:.3g}, {after:.3g}"
                counts[outcome] += 1
                found = f"{result.bounds.max_lr:.2g}" if result.bounds else "none"
                sys.stdout.write(f"| {kind} | {name} | {found} | {outcome} | {losses} |\n")
                sys.stdout.flush()
    sys.stdout.write(f"\n{counts}\n")


if __name__ == "__main__":
    main()
