"""What does one ``scheduler.step()`` cost? ``python tests/benchmarks/schedule_step.py [--quick]``.

``ScheduleLR`` with the schedules that equal torch's ``OneCycleLR`` and ``CyclicLR``, against these, on one to a
thousand parameter groups of SGD with momentum. Microseconds a step, the least of several rounds, and the memory that
steps leave behind.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

import torch
from report import in_turns, options, show
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR

from lightning_clr import Cyclic, LRBounds, OneCycle, ScheduleLR

STEPS = 2000
BOUNDS = LRBounds(0.004, 0.1)
SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "`ScheduleLR`, `OneCycle()`": lambda optimizer: ScheduleLR(optimizer, OneCycle(), STEPS, BOUNDS),
    "torch's `OneCycleLR`": lambda optimizer: OneCycleLR(optimizer, 0.1, STEPS),
    "`ScheduleLR`, `Cyclic(step_size=50)`": lambda optimizer: ScheduleLR(optimizer, Cyclic(step_size=50), None, BOUNDS),
    "torch's `CyclicLR`": lambda optimizer: CyclicLR(optimizer, 0.004, 0.1, 50),
}


def sgd(groups: int) -> torch.optim.Optimizer:
    """With so many groups of one parameter, all at the same learning rate."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    return torch.optim.SGD([{"params": [parameter]} for parameter in parameters], lr=0.1, momentum=0.9)


def prepared(kind: str, groups: int, steps: int) -> Callable[[], None]:
    """What makes so many steps of a new scheduler."""
    optimizer = sgd(groups)
    scheduler = SCHEDULERS[kind](optimizer)
    optimizer.step()

    def run() -> None:
        for _ in range(steps):
            scheduler.step()

    return run


def growth(kind: str, groups: int, steps: int) -> int:
    """Bytes more in use after so many steps than before them."""
    run = prepared(kind, groups, steps)
    run()  # caches fill
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def main() -> None:
    """Time everything, and show it."""
    chosen = options(__doc__, "schedule_step.json")
    repeats = chosen.repeats or (3 if chosen.quick else 15)
    found: dict[str, dict[str, Any]] = {kind: {"bytes left": growth(kind, 10, 100)} for kind in SCHEDULERS}
    sizes = (1, 10, 1000)
    for groups in sizes:
        steps = (200 if chosen.quick else 900) // (1 if groups < 1000 else 20)
        contenders = {kind: lambda kind=kind, g=groups, n=steps: prepared(kind, g, n) for kind in SCHEDULERS}
        for kind, seconds in in_turns(contenders, repeats).items():
            found[kind][str(groups)] = min(seconds) / steps * 1e6
    rows = [
        [kind, *(f"{cells[str(groups)]:.1f}" for groups in sizes), cells["bytes left"]] for kind, cells in found.items()
    ]
    head = ["µs a step", *(f"{groups} groups" for groups in sizes), "bytes left by 100 steps"]
    show(head, rows, found, chosen.output)


if __name__ == "__main__":
    main()
