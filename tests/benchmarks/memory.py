"""How much memory does a range test take? ``python tests/benchmarks/memory.py [--quick]``.

Peak resident memory of a process that trains three steps, with the range test before them and without, and of one that
only sets training up; each in a process of its own, in units of the module's weights.
"""

import resource
import statistics
import subprocess
import sys
from typing import Any

import torch
from pytorch_lightning import LightningModule
from report import options, show, trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_clr import LRRangeTest

OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}


class Wide(LightningModule):
    """Most of its memory are weights."""

    def __init__(self, optimizer: str, millions: int) -> None:
        super().__init__()
        side = 500
        self.optimizer = OPTIMIZERS[optimizer]
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(side, side) for _ in range(4 * millions)))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=1e-3)


def child(optimizer: str, millions: int, tested: bool) -> None:
    """Train, and print the peak in bytes."""
    training = trainer(3)
    if tested:
        training.callbacks.append(LRRangeTest(num_steps=10, max_lr=1e-3, stop_factor=None))
    data = TensorDataset(torch.randn(64, 500), torch.randint(10, (64,)))
    training.fit(Wide(optimizer, millions), DataLoader(data, 8))
    sys.stdout.write(f"\n{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}")


def peak(optimizer: str, millions: int, tested: bool) -> int:
    """Of a process that does that."""
    code = f"import report, memory; report.quiet(); memory.child({optimizer!r}, {millions}, {tested})"
    done = subprocess.run([sys.executable, "-c", code], cwd=sys.path[0], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    """Measure everything, and show it."""
    chosen = options(__doc__, "memory.json")
    millions, repeats = (10, 1) if chosen.quick else (50, chosen.repeats or 3)
    found: dict[str, dict[str, Any]] = {}
    rows = []
    for optimizer in ["SGD"] if chosen.quick else OPTIMIZERS:
        untested, tested = (
            statistics.median(peak(optimizer, millions, test) for _ in range(repeats)) for test in (False, True)
        )
        weights = sum(parameter.nbytes for parameter in Wide(optimizer, millions).parameters())
        found[optimizer] = {"weights": weights, "untested": untested, "tested": tested}
        mib = [f"{size / 2**20:.0f} MiB" for size in (weights, untested, tested)]
        rows.append([optimizer, *mib, f"{(tested - untested) / weights:.2f}"])
    show(["optimizer", "weights", "peak without", "peak with the test", "more, in weights"], rows, found, chosen.output)


if __name__ == "__main__":
    main()
