"""What are found bounds good for? ``python tests/benchmarks/payoff.py [--quick]``.

For each task, with the bounds that a default ``LRRangeTest()`` finds, means over three seeds:

- the shortest of some 1cycle trainings that is as good as the best constant learning rate of a grid is after all steps,
  and as good as the default learning rate of torch's optimizer is, as a part of these steps;
- what is lost against the best constant learning rate by ``Cyclic()`` (four cycles between the bounds) and by the
  constant learning rate that a module without a schedule is given, as a part of the improvement that the best brings.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from finders import range_test
from runs import GRID, SEEDS, Truth, train
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
    columns = ("best constant", "torch's default", "Cyclic loses", "constant loses")
    lines = [f"| task | steps | {' | '.join(columns)} |", "|---|---|---|---|---|---|"]
    for task in tasks:
        row = found[task.name]
        reached = [_part(row[name]) for name in columns[:2]]
        lost = [f"{row[name]:.3f}" for name in columns[2:]]
        lines.append(f"| {task.name} | {task.steps} | {' | '.join([*reached, *lost])} |")
    reached = [_part(statistics.median(row[name] or 2.0 for row in found.values())) for name in columns[:2]]
    lost = [f"{statistics.fmean(row[name] for row in found.values()):.3f}" for name in columns[2:]]
    lines.append(f"| **median, mean** | | {' | '.join([*reached, *lost])} |")
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
    default_score = truth.means[min(range(len(GRID)), key=lambda i: abs(GRID[i] - default_lr))]
    constants = [truth.regret(constant_lr(b) if b else None) for b in bounds.values()]
    return {
        "scores": scores,
        "best constant": _shortest(scores, truth, truth.best),
        "torch's default": _shortest(scores, truth, default_score),
        "Cyclic loses": truth.lost(mean(Cyclic())),
        "constant loses": statistics.fmean(constants),
    }


def _shortest(scores: dict[float, float], truth: Truth, goal: float) -> float | None:
    return next((part for part, score in scores.items() if truth.lost(score) - truth.lost(goal) <= TOLERANCE), None)


def _part(part: float | None) -> str:
    return "not reached" if part is None or part > 1 else f"{100 * part:.0f} %"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the smallest task, within half a minute")
    parser.add_argument("--output", type=Path, default=Path("payoff.json"), help="where the numbers go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
