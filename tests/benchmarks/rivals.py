"""Optimizers that need no learning rate, beside 1cycle between found bounds: ``python tests/benchmarks/rivals.py``.

The packages themselves (prodigyopt, dadaptation, schedulefree), as their pages recommend: Prodigy and D-Adaptation at a
learning rate of 1 with a cosine to zero, schedule-free AdamW at 0.0025 with 5 % of warm-up. They train as long as ours
and its range test together, from the same weights on the same batches, with the task's weight decay. Scores are given
as regrets, see ``bounds.py``; below zero is better than the best learning rate of the grid.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from dadaptation import DAdaptAdam, DAdaptSGD
from finders import range_test
from prodigyopt import Prodigy
from runs import SEEDS, Truth, set_lr, train
from schedulefree import AdamWScheduleFree
from tasks import TASKS, Task

from lightning_clr import OneCycle

Make = Callable[[Any, float], torch.optim.Optimizer]
COSINE: dict[str, Make] = {
    "Prodigy": lambda parameters, decay: Prodigy(parameters, lr=1.0, weight_decay=decay),
    "D-Adaptation (Adam)": lambda parameters, decay: DAdaptAdam(parameters, lr=1.0, weight_decay=decay),
    "D-Adaptation (SGD)": lambda parameters, decay: DAdaptSGD(parameters, lr=1.0, weight_decay=decay, momentum=0.9),
}


def make_schedule_free(parameters: Any, decay: float, steps: int) -> torch.optim.Optimizer:
    return AdamWScheduleFree(parameters, lr=0.0025, warmup_steps=steps // 20, weight_decay=decay)


def with_cosine(task: Task, seed: int, steps: int, make: Make) -> float:
    """Score of one that finds its own step size."""
    model, optimizer, batches = task.start(seed)
    rival = make(model.parameters(), optimizer.param_groups[0]["weight_decay"])
    for step in range(steps):
        set_lr(rival, (1 + math.cos(math.pi * step / steps)) / 2)
        if not math.isfinite(task.train_step(model, rival, next(batches))):
            return -math.inf
    return _score(task, model)


def schedule_free(task: Task, seed: int, steps: int) -> float:
    """Score of schedule-free AdamW."""
    model, optimizer, batches = task.start(seed)
    decay = optimizer.param_groups[0]["weight_decay"]
    rival = make_schedule_free(model.parameters(), decay, steps)
    rival.train()
    for _ in range(steps):
        if not math.isfinite(task.train_step(model, rival, next(batches))):
            return -math.inf
    rival.eval()
    return _score(task, model)


def _score(task: Task, model: torch.nn.Module) -> float:
    accuracy, negative_loss = task.scores(model)
    score = accuracy if task.accuracy else negative_loss
    return score if math.isfinite(score) else -math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("rivals.json"), help="where the numbers go")
    parser.add_argument("--tasks", nargs="+", help="only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, float]] = {}
    for task in TASKS:
        if options.tasks and task.name not in options.tasks:
            continue
        truth, scores = Truth(task, "onecycle"), dict[str, list[float]]()
        for seed in SEEDS:
            result = range_test(task, seed)
            steps = task.steps + result.num_steps
            ours = -math.inf if result.bounds is None else train(task, seed, OneCycle(), result.bounds)
            scores.setdefault("1cycle, found bounds", []).append(ours)
            for name, make in COSINE.items():
                scores.setdefault(name, []).append(with_cosine(task, seed, steps, make))
            scores.setdefault("schedule-free AdamW", []).append(schedule_free(task, seed, steps))
        found[task.name] = {name: truth.lost(truth.mean(seeds)) for name, seeds in scores.items()}
        options.output.write_text(json.dumps(found, indent=1))
    ours = [row["1cycle, found bounds"] for row in found.values()]
    sys.stdout.write("| | mean | median | worst | ours is as good or better |\n|---|---|---|---|---|\n")
    for name in next(iter(found.values())):
        regrets = [row[name] for row in found.values()]
        better = sum(mine <= other + 0.005 for mine, other in zip(ours, regrets, strict=True))
        middle = f"{statistics.fmean(regrets):.3f} | {statistics.median(regrets):.3f} | {max(regrets):.2f}"
        sys.stdout.write(f"| {name} | {middle} | {better} of {len(ours)} |\n")


if __name__ == "__main__":
    main()
