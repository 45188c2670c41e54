"""What each learning rate finder suggests for a task: the packages themselves, and fastai's rules as published."""

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from ignite.handlers import FastaiLRFinder
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.tuner import Tuner
from runs import set_lr
from tasks import Task
from torch.utils.data import DataLoader, TensorDataset

from lightning_clr import CLRMixin, RangeTestResult, lr_range_test

Array = NDArray[np.float64]
Finder = Callable[[Task, int, int], float | None]

for _name in ("pytorch_lightning", "lightning.pytorch"):
    logging.getLogger(_name).setLevel(logging.ERROR)

FIRST, LAST = 1e-7, 10.0  # of the sweeps of the packages that have no default, as in their examples


class Plain(LightningModule):
    """A task as a LightningModule without a schedule."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.model = task.model()
        self.lr = 1e-3

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.task.loss(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = self.task.optimizer(self.parameters())
        set_lr(optimizer, self.lr)
        return optimizer


class Scheduled(CLRMixin, Plain):
    """The same with 1cycle."""

    def configure_optimizers(self) -> Any:
        return self.with_schedule(super().configure_optimizers())


def range_test(task: Task, seed: int, num_steps: int | None = None) -> RangeTestResult:
    """The default ``LRRangeTest()`` of this package but for its length."""
    with _quiet_trainer(task, seed) as trainer:
        return lr_range_test(trainer, Scheduled(task), _loader(task), num_steps=num_steps)


def lightning(task: Task, seed: int, num_steps: int = 100) -> float | None:
    """Lightning's ``Tuner.lr_find`` with its defaults."""
    with _quiet_trainer(task, seed) as trainer:
        found = Tuner(trainer).lr_find(Plain(task), _loader(task), num_training=num_steps)
        return None if found is None else found.suggestion()


def torch_lr_finder(task: Task, seed: int, num_steps: int = 100) -> float | None:
    """The package's suggestion; it does not know gradient clipping."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from torch_lr_finder import LRFinder

    model, optimizer, _ = task.start(seed)
    with _silent():
        finder = LRFinder(model, optimizer, task.loss, device="cpu")
        finder.range_test(_loader(task), start_lr=FIRST, end_lr=LAST, num_iter=num_steps)
        try:
            return float(finder.plot(ax=plt.figure().add_subplot(), suggest_lr=True)[1])
        except RuntimeError:  # too few points
            return None
        finally:
            plt.close("all")


def ignite(task: Task, seed: int, num_steps: int = 100) -> float | None:
    """``FastaiLRFinder`` of ignite."""
    model, optimizer, _ = task.start(seed)
    finder = FastaiLRFinder()
    trainer = Engine(lambda _, batch: task.train_step(model, optimizer, batch))
    saved = {"model": model, "optimizer": optimizer}
    with _silent(), finder.attach(trainer, saved, num_iter=num_steps, start_lr=FIRST, end_lr=LAST) as sweep:
        sweep.run(_loader(task))
    try:
        return float(finder.lr_suggestion())
    except RuntimeError:  # not U-shaped
        return None


def fastai(rule: Callable[[Array, Array], float | None]) -> Finder:
    """A rule of fastai's on a sweep like fastai's: from 1e-7 to 10, ended at four times the lowest average."""

    def find(task: Task, seed: int, num_steps: int = 100) -> float | None:
        model, optimizer, batches = task.start(seed)
        lrs, averages, average = [], [], 0.0
        for step in range(num_steps):
            lrs.append(FIRST * (LAST / FIRST) ** (step / (num_steps - 1)))
            set_lr(optimizer, lrs[-1])
            average = 0.98 * average + 0.02 * task.train_step(model, optimizer, next(batches))
            averages.append(average / (1 - 0.98 ** (step + 1)))
            if not math.isfinite(average) or averages[-1] > 4 * min(averages):
                break
        if not math.isfinite(averages[-1]):
            lrs, averages = lrs[:-1], averages[:-1]
        shown = slice(num_steps // 10, -5)
        return rule(np.array(lrs)[shown], np.array(averages)[shown])

    return find


def valley(lrs: Array, losses: Array) -> float | None:
    """About the middle of the longest decreasing subsequence."""
    if len(losses) < 6:
        return None
    length = [1] * len(losses)
    start = end = 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and length[i] < length[j] + 1:
                length[i] = length[j] + 1
            if length[end] < length[i]:
                end, start = i, i - length[i]
    section = (end - start) / 3
    return float(lrs[max(0, start + int(section) + int(section / 2))])


def slide(lrs: Array, losses: Array, threshold: float = 0.005) -> float | None:
    """From the right, while slopes 15 steps apart differ."""
    if len(losses) < 16:
        return None
    slopes = np.gradient(losses)
    right, left, found = -1, -16, None
    while left >= -len(losses) and abs(slopes[right] - slopes[left]) > threshold:
        found = float(lrs[left])
        right, left = right - 1, left - 1
    return found


def steep(lrs: Array, losses: Array) -> float | None:
    """The steepest descent per step of the logarithm."""
    return float(lrs[np.argmin(np.diff(losses) / np.diff(np.log(lrs)))]) if len(losses) > 2 else None


def tenth_of_minimum(lrs: Array, losses: Array) -> float | None:
    """A tenth of the learning rate of the lowest average."""
    return float(lrs[np.argmin(losses)]) / 10 if len(losses) else None


FINDERS: dict[str, Finder] = {
    "Lightning lr_find": lightning,
    "torch-lr-finder": torch_lr_finder,
    "ignite": ignite,
    "fastai valley": fastai(valley),
    "fastai slide": fastai(slide),
    "fastai steep": fastai(steep),
    "fastai minimum/10": fastai(tenth_of_minimum),
}


def _loader(task: Task) -> DataLoader[Any]:
    x, y, _, _ = task.data()
    return DataLoader(TensorDataset(x, y), task.batch_size, shuffle=True, drop_last=True)


@contextlib.contextmanager
def _quiet_trainer(task: Task, seed: int) -> Any:
    seed_everything(seed, verbose=False)
    with tempfile.TemporaryDirectory() as folder, _silent():
        yield Trainer(
            accelerator="cpu",
            max_steps=task.steps,
            gradient_clip_val=task.clip,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )


@contextlib.contextmanager
def _silent() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
