"""What are found bounds good for? ``python tests/benchmarks/payoff.py [--quick]``.

For each task, with the bounds that a default ``LRRangeTest()`` finds, means over three seeds:

- the shortest of some 1cycle trainings that is as good as the best constant learning rate of a grid is after all steps,
  and as good as the default learning rate of torch's optimizer is, as a part of these steps;
- what is lost against the best constant learning rate by ``Cyclic()`` (four cycles between the bounds) and by the
  constant learning rate that a module without a schedule is given, as a part of the improvement that the best brings.
"""

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from finders import range_test
from runs import SEEDS, Truth, train
from tasks import TASKS, Task

from lightning_clr import Cyclic, OneCycle
from lightning_clr.apply import constant_lr

PARTS = (0.1, 0.15, 0.2, 0.25, 0.33, 0.5, 0.67, 0.8, 1.0)
TOLERANCE = 0.01  # of the improvement that the best constant brings; a validation set has 400 samples at most
QUICK = ("cancer logistic, sgd",)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    tasks = [task for task in TASKS if not options.quick or task.name in QUICK]
    found = {task.name: _payoff(task) for task in tasks}
    reached, lost = ("best constant", "torch's default"), ("Cyclic loses", "constant loses")
    summary = {name: statistics.median(row[name] or math.inf for row in found.values()) for name in reached}
    summary |= {name: statistics.fmean(row[name] for row in found.values()) for name in lost}
    rows = [(f"{task.name} | {task.steps}", found[task.name]) for task in tasks]
    lines = [f"| task | steps | {' | '.join(reached + lost)} |", "|---|---|---|---|---|---|"]
    for label, row in [*rows, ("**median, mean** |", summary)]:
        cells = [*(_part(row[name]) for name in reached), *(f"{row[name]:.3f}" for name in lost)]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    sys.stdout.write("\n".join(lines) + "\n")
    options.output.write_text(json.dumps(found, indent=1))


def _payoff(task: Task) -> dict[str, Any]:
    truth = Truth(task, "fixed")
    bounds = {seed: range_test(task, seed).bounds for seed in SEEDS}

    def mean(schedule: Any, part: float = 1.0) -> float:
        steps = round(part * task.steps)
        return truth.mean(
            [train(task, seed, schedule, b, steps) if b else truth.untrained for seed, b in bounds.items()]
        )

    scores = {part: mean(OneCycle(), part) for part in PARTS}
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    default_lr = type(task.optimizer(parameters))(parameters).defaults["lr"]
    constants = [truth.regret(constant_lr(b) if b else None) for b in bounds.values()]
    return {
        "scores": scores,
        "best constant": _shortest(scores, truth, 0.0),
        "torch's default": _shortest(scores, truth, truth.regret(default_lr)),
        "Cyclic loses": truth.lost(mean(Cyclic())),
        "constant loses": statistics.fmean(constants),
    }


def _shortest(scores: dict[float, float], truth: Truth, lost: float) -> float | None:
    return next((part for part, score in scores.items() if truth.lost(score) <= lost + TOLERANCE), None)


def _part(part: float | None) -> str:
    return "not reached" if part is None or part > 1 else f"{100 * part:.0f} %"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the smallest task, within half a minute")
    parser.add_argument("--output", type=Path, default=Path("payoff.json"), help="where the numbers go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
