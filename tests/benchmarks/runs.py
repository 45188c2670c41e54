"""Training runs of the tasks, and the ground truth made of them: scores on a grid of learning rates, kept in a file."""

import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tasks import Task

from lightning_clr import LRBounds, OneCycle, Schedule

SEEDS = (0, 1, 2)
GRID = [10 ** (-5 + place / 4) for place in range(33)]
TRUTH = Path(__file__).with_name("truth.json")


def train(task: Task, seed: int, schedule: Schedule, bounds: LRBounds, steps: int | None = None) -> float:
    """Score after a training with a schedule, of ``task.steps`` steps by default; ``-inf`` if it diverges."""
    steps = steps or task.steps
    return _train(task, seed, steps, lambda step: (schedule.lr(step, steps, bounds), schedule.momentum(step, steps)))


def train_fixed(task: Task, seed: int, lr: float) -> float:
    """Score after a training at a constant learning rate; ``-inf`` if it diverges."""
    return _train(task, seed, task.steps, lambda _: (lr, None))


def _train(task: Task, seed: int, steps: int, setting: Callable[[int], tuple[float, float | None]]) -> float:
    model, optimizer, batches = task.start(seed)
    for step in range(steps):
        set_lr(optimizer, *setting(step))
        if not math.isfinite(task.train_step(model, optimizer, next(batches))):
            return -math.inf
    return _score(task, model)


def _score(task: Task, model: torch.nn.Module) -> float:
    accuracy, negative_loss = task.scores(model)
    score = accuracy if task.accuracy else negative_loss
    return score if math.isfinite(score) else -math.inf


def set_lr(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None = None) -> None:
    """Set the learning rate, and momentum (Adam's beta1) where there is some."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is not None and group.get("momentum"):
            group["momentum"] = momentum
        elif momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


class Truth:
    """How good each learning rate of the grid is for a task, as ``max_lr`` of 1cycle or as a constant.

    Args:
        task: The task.
        kind: What the learning rate is used for.
    """

    def __init__(self, task: Task, kind: Literal["onecycle", "fixed"]) -> None:
        found = _known().get(kind, {}).get(task.name)
        if found is None:
            found = _measured(task, kind)
            file = _known()  # another process may have written
            file.setdefault(kind, {})[task.name] = found
            TRUTH.write_text(json.dumps(file, indent=0).replace(",\n", ", ").replace("[\n", "[").replace("\n]", "]"))
        self.untrained = statistics.fmean(found["untrained"])
        self.means = [self.mean(_numbers(scores)) for scores in found["scores"]]
        self.best = max(self.means)

    def mean(self, scores: Sequence[float]) -> float:
        """Mean score over seeds; a run that ends worse than it began counts as one that never began."""
        return statistics.fmean(max(score, self.untrained) for score in scores)

    def regret(self, lr: float | None) -> float:
        """What is lost by this learning rate, of the improvement that the best brings; all of it if there is none."""
        if lr is None:
            return 1.0
        regrets = [self.lost(mean) for mean in self.means]
        return float(np.interp(math.log10(lr), np.log10(GRID), regrets))

    def lost(self, score: float) -> float:
        """The part of the best improvement that a score lacks."""
        return (self.best - score) / (self.best - self.untrained)


def _known() -> dict[str, Any]:
    file: dict[str, Any] = json.loads(TRUTH.read_text()) if TRUTH.exists() else {}
    return file


def _measured(task: Task, kind: str) -> dict[str, Any]:
    def score(lr: float, seed: int) -> float:
        if kind == "fixed":
            return train_fixed(task, seed, lr)
        return train(task, seed, OneCycle(), LRBounds(lr / OneCycle().div_factor, lr))

    return {
        "untrained": [_score(task, task.start(seed)[0]) for seed in SEEDS],
        "scores": [[_rounded(score(lr, seed)) for seed in SEEDS] for lr in GRID],
    }


def _rounded(score: float) -> float | None:
    return float(f"{score:.5g}") if math.isfinite(score) else None  # JSON knows no infinity


def _numbers(scores: Sequence[float | None]) -> list[float]:
    return [-math.inf if score is None else score for score in scores]
