"""What does a range test cost? ``python tests/benchmarks/cost.py [--quick]``.

Each way of making N optimizer steps, as a whole call, in units of N steps of a bare PyTorch loop over the same model,
data and batches, made in the same round. The learning rate stays low, so that nobody ends early.
"""

import contextlib
import io
import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from ignite.engine import Engine
from ignite.handlers import FastaiLRFinder
from pytorch_lightning import LightningModule
from pytorch_lightning.tuner import Tuner
from report import in_turns, options, ratio, show, trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_clr import lr_range_test

BATCH = 64
FIRST, LAST = 1e-6, 1e-2
NETS = {"MLP 64-64-64-10": 64, "MLP 64-2048-2048-10": 2048}


class Net(LightningModule):
    """Three layers, SGD with momentum; logs its loss, as modules do."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = net(width)
        self.lr = 1e-3

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = cross_entropy(self.layers(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return sgd(self, self.lr)


def net(width: int) -> torch.nn.Module:
    """A multilayer perceptron."""
    sizes, relu = (torch.nn.Linear(64, width), torch.nn.Linear(width, width), torch.nn.Linear(width, 10)), torch.nn.ReLU
    return torch.nn.Sequential(sizes[0], relu(), sizes[1], relu(), sizes[2])


def sgd(module: torch.nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    """The optimizer of all contenders."""
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=0.9)


def data(steps: int) -> DataLoader[Any]:
    """Noise, of as many batches as there are steps."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(steps * BATCH, 64, generator=generator), torch.randint(10, (steps * BATCH,), generator=generator)
    return DataLoader(TensorDataset(x, y), BATCH, shuffle=True)


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
    """One step as PyTorch's tutorials make it."""
    optimizer.zero_grad()
    loss = cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    optimizer.step()
    return loss


def bare(width: int, steps: int) -> Callable[[], object]:
    """The unit: a loop without anything."""
    model, loader = net(width), data(steps)
    optimizer = sgd(model)

    def run() -> None:
        for batch in loader:
            train_step(model, optimizer, batch)

    return run


def plain_fit(width: int, steps: int) -> Callable[[], object]:
    """Lightning's training without a test."""
    return partial(trainer(steps).fit, Net(width), data(steps))


def range_test(width: int, steps: int) -> Callable[[], object]:
    """Ours, one sweep."""
    sweep = {"num_steps": steps, "min_lr": FIRST, "max_lr": LAST, "stop_factor": None}
    return partial(lr_range_test, trainer(steps), Net(width), data(steps), **sweep)


def lightning(width: int, steps: int) -> Callable[[], object]:
    """Lightning's finder."""
    sweep = {"num_training": steps, "min_lr": FIRST, "max_lr": LAST, "early_stop_threshold": None}
    return partial(Tuner(trainer(steps)).lr_find, Net(width), data(steps), **sweep)


def torch_lr_finder(width: int, steps: int) -> Callable[[], object]:
    """The package of that name; its state is put back, as ours is."""
    from torch_lr_finder import LRFinder

    model, loader = net(width), data(steps)
    finder = LRFinder(model, sgd(model, FIRST), cross_entropy, device="cpu")

    def run() -> None:
        finder.range_test(loader, start_lr=FIRST, end_lr=LAST, num_iter=steps, diverge_th=1e9)
        finder.reset()

    return run


def ignite(width: int, steps: int) -> Callable[[], object]:
    """``FastaiLRFinder``."""
    model, loader, finder = net(width), data(steps), FastaiLRFinder()
    optimizer = sgd(model)
    engine = Engine(lambda _, batch: train_step(model, optimizer, batch).item())
    sweep = {"num_iter": steps, "start_lr": FIRST, "end_lr": LAST, "diverge_th": 1e9}

    def run() -> None:
        with finder.attach(engine, {"model": model, "optimizer": optimizer}, **sweep) as sweeping:
            sweeping.run(loader)

    return run


CONTENDERS = {
    "bare PyTorch loop": bare,
    "plain `Trainer.fit`": plain_fit,
    "**ours**, `lr_range_test`": range_test,
    "Lightning `lr_find`": lightning,
    "torch-lr-finder": torch_lr_finder,
    "ignite": ignite,
}


def main() -> None:
    """Time everything, and show it."""
    chosen = options(__doc__, "cost.json")
    steps, repeats = (10, 1) if chosen.quick else (100, 21)
    found: dict[str, Any] = {}
    for name, width in NETS.items():
        rounds = chosen.repeats or (repeats if width < 1000 else math.ceil(repeats / 3))
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            found[name] = in_turns({kind: partial(way, width, steps) for kind, way in CONTENDERS.items()}, rounds)
    rows = []
    for kind in CONTENDERS:
        units = [ratio(seconds[kind], seconds["bare PyTorch loop"]) for seconds in found.values()]
        times = [statistics.median(seconds[kind]) / steps * 1000 for seconds in found.values()]
        rows.append([kind, *(f"{unit:.2f} ({ms:.2f} ms)" for unit, ms in zip(units, times, strict=True))])
    show(["N steps", *found], rows, {"steps": steps, "seconds": found}, chosen.output)


if __name__ == "__main__":
    main()
