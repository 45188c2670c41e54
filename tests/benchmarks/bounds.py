"""How good is the ``max_lr`` of a range test? ``python tests/benchmarks/bounds.py [--quick]``.

Each suggestion is the ``max_lr`` of a 1cycle run. Its regret is (best score of a grid of learning rates - score at the
suggestion) / (best score - untrained score), scores being means over seeds, in between learning rates of the grid
interpolated. No suggestion, and a score below the untrained one, count as regret 1.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rules
import torch
from tasks import TASKS, Task

from lightning_clr import LRBounds, OneCycle
from lightning_clr.curve import find_bounds
from lightning_clr.schedules import Sweep

Curve = tuple[list[float], list[float]]
Rule = Callable[[Sequence[float], Sequence[float]], float | None]

SEEDS = (0, 1, 2)
GRID = [10 ** (-5 + place / 4) for place in range(33)]
SWEEP = LRBounds(1e-6, 10.0)
STEPS = 100
CONTINUED = 29  # further steps, to 1000, where a curve still improves at the end


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    tasks = [task for task in TASKS if task.name in QUICK] if options.quick else TASKS
    options.cache.mkdir(parents=True, exist_ok=True)
    regrets: dict[str, dict[str, list[float]]] = {}
    for task in tasks:
        truth = _cached(options.cache, "onecycle", task, lambda task: _truth(task))
        curves = _cached(options.cache, f"sweep-{options.momentum}", task, lambda task: _sweeps(task, options.momentum))
        for name, rule in RULES.items():
            regrets.setdefault(name, {})[task.name] = [_regret(truth, rule(*curve)) for curve in curves]
    rows = {
        f"{name}, {split}": summary(regrets[name], [task.name for task in tasks if task.split == split])
        for split in ("dev", "val", "test")
        for name in RULES
        if any(task.split == split for task in tasks)
    }
    sys.stdout.write(table(rows))
    options.output.write_text(json.dumps({"summary": rows, "regrets": regrets}, indent=1))


def ours(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """This package, on a default sweep that goes on where the curve still improves at its end."""
    bounds, reason = find_bounds(lrs[:STEPS], losses[:STEPS])
    if "still improving" in reason:
        bounds, reason = find_bounds(lrs, losses)
    return None if bounds is None else bounds.max_lr


def ours_strict(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """This package on a default sweep, which ends at 10 whatever happens."""
    bounds, _ = find_bounds(lrs[:STEPS], losses[:STEPS])
    return None if bounds is None else bounds.max_lr


def _on_default_sweep(rule: Rule) -> Rule:
    return lambda lrs, losses: rule(lrs[:STEPS], losses[:STEPS])


RULES: dict[str, Rule] = {
    "ours": ours,
    "ours, no continuation": ours_strict,
    "fastai valley": _on_default_sweep(rules.valley),
    "fastai slide": _on_default_sweep(rules.slide),
    "fastai steep": _on_default_sweep(rules.steep),
    "fastai minimum/10": _on_default_sweep(rules.tenth_of_minimum),
    "Lightning's formula": _on_default_sweep(rules.lightning),
}
QUICK = ("cancer logistic, sgd", "diabetes linear, sgd")


def summary(regrets: dict[str, list[float]], names: list[str]) -> dict[str, Any]:
    """Mean over tasks, and the worst task with its name."""
    means = {name: statistics.fmean(regrets[name]) for name in names}
    worst = max(means, key=means.__getitem__)
    return {"mean": statistics.fmean(means.values()), "worst": means[worst], "worst task": worst}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| rule, split | mean regret | worst | worst task |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['mean']:.3f} | {row['worst']:.2f} | {row['worst task']} |" for name, row in rows.items()
    ]
    return "\n".join(lines) + "\n"


def _truth(task: Task) -> dict[str, Any]:
    """Scores of 1cycle runs on the grid, ``[lr, seed]``, and those of untrained models."""
    untrained = [_score(task, task.start(seed)[0]) for seed in SEEDS]
    bounds = [LRBounds(lr / OneCycle().div_factor, lr) for lr in GRID]
    return {"untrained": untrained, "scores": [[_train(task, seed, ends) for seed in SEEDS] for ends in bounds]}


def _train(task: Task, seed: int, bounds: LRBounds) -> float:
    model, optimizer, batches = task.start(seed)
    schedule = OneCycle()
    for step in range(task.steps):
        _set(optimizer, schedule.lr(step, task.steps, bounds), schedule.momentum(step, task.steps))
        if not math.isfinite(task.train_step(model, optimizer, next(batches))):
            return -math.inf
    return _score(task, model)


def _score(task: Task, model: torch.nn.Module) -> float:
    accuracy, negative_loss = task.scores(model)
    score = accuracy if task.accuracy else negative_loss
    return score if math.isfinite(score) else -math.inf


def _sweeps(task: Task, momentum: float) -> list[Curve]:
    """Curves of one sweep per seed, measured and ended as a default ``LRRangeTest`` does, but going on beyond it."""
    return [_sweep(task, seed, momentum) for seed in SEEDS]


def _sweep(task: Task, seed: int, momentum: float) -> Curve:
    model, optimizer, batches = task.start(seed)
    ratio = Sweep().lr(1, STEPS, SWEEP) / SWEEP.base_lr
    lrs: list[float] = []
    losses: list[float] = []
    lowest = math.inf
    for step in range(STEPS + CONTINUED):
        lrs.append(SWEEP.base_lr * ratio**step)
        _set(optimizer, lrs[-1], momentum)
        losses.append(task.train_step(model, optimizer, next(batches)))
        recent = statistics.median(losses[-5:])
        lowest = min(lowest, recent)
        if not math.isfinite(losses[-1]) or recent > max(lowest + 3 * abs(lowest), losses[0]):
            break
    return lrs, losses


def _set(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is not None and group.get("momentum"):
            group["momentum"] = momentum
        elif momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def _regret(truth: dict[str, Any], lr: float | None) -> float:
    if lr is None:
        return 1.0
    untrained = statistics.fmean(truth["untrained"])
    scores = np.maximum(np.array(truth["scores"]), untrained).mean(axis=1)
    regrets = (scores.max() - scores) / (scores.max() - untrained)
    return float(np.interp(math.log10(lr), np.log10(GRID), regrets))


def _cached(folder: Path, kind: str, task: Task, make: Callable[[Task], Any]) -> Any:
    path = folder / f"{kind}-{''.join(c if c.isalnum() else '_' for c in task.name)}.json"
    if not path.exists():
        path.write_text(json.dumps(make(task)))
    return json.loads(path.read_text())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the two smallest tasks, within half a minute")
    parser.add_argument("--momentum", type=float, default=0.85, help="momentum (Adam: beta1) during the sweep")
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / "cache", help="folder of what was run")
    parser.add_argument("--output", type=Path, default=Path("bounds.json"), help="where the numbers go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
