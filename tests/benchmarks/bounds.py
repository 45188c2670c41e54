"""How good is the ``max_lr`` of a range test? ``python tests/benchmarks/bounds.py [--quick] [--no-peers]``.

Each suggestion is the ``max_lr`` of a 1cycle run. Its regret is (best score of a grid of learning rates - score at the
suggestion) / (best score - untrained score), scores being means over three seeds, in between learning rates of the grid
interpolated. No suggestion, and a score below the untrained one, count as regret 1.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from finders import FINDERS, range_test
from runs import SEEDS, Truth
from tasks import TASKS, Task

QUICK = ("cancer logistic, sgd", "diabetes linear, sgd")


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    tasks = [task for task in TASKS if task.name in QUICK] if options.quick else TASKS
    found = {}
    for task in tasks:
        if task.split in options.splits:
            found[task.name] = _found(task, options.peers)
            options.output.write_text(json.dumps(found, indent=1))
    rows = [row for split in options.splits for row in _rows([t for t in tasks if t.split == split], found)]
    lines = [
        "| finder | split | mean regret | worst | worst task | declined | steps |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")


def _found(task: Task, peers: bool) -> dict[str, list[dict[str, Any]]]:
    """By finder, one entry a seed: the suggestion, its regret, and the steps it took."""
    truth = Truth(task, "onecycle")
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in SEEDS:
        result = range_test(task, seed)
        lr = result.bounds.max_lr if result.bounds else None
        entry = {"lr": lr, "regret": truth.regret(lr), "steps": result.num_steps, "reason": result.reason}
        found.setdefault("ours", []).append(entry)
        for name, finder in FINDERS.items() if peers else ():
            lr = finder(task, seed, 100)
            found.setdefault(name, []).append({"lr": lr, "regret": truth.regret(lr)})
    return found


def _rows(tasks: list[Task], found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for finder in found[tasks[0].name] if tasks else ():
        entries = {task.name: found[task.name][finder] for task in tasks}
        regrets = {name: statistics.fmean(entry["regret"] for entry in seeds) for name, seeds in entries.items()}
        worst = max(regrets, key=regrets.__getitem__)
        every = [entry for seeds in entries.values() for entry in seeds]
        declined = sum(entry["lr"] is None for entry in every)
        steps = f"{statistics.fmean(entry['steps'] for entry in every):.0f}" if "steps" in every[0] else "up to 100"
        mean = statistics.fmean(regrets.values())
        cells = f"{mean:.3f}", f"{regrets[worst]:.2f}", worst, f"{declined} of {len(every)}", steps
        rows.append([finder, tasks[0].split, *cells])
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the two smallest tasks, within half a minute")
    parser.add_argument("--splits", nargs="+", default=["dev", "val", "test"], choices=["dev", "val", "test"])
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only this package")
    parser.add_argument("--output", type=Path, default=Path("bounds.json"), help="where the numbers go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
