"""What does a range test cost on several ranks? ``python tests/benchmarks/ranks_cost.py [--quick]``.

Time between two steps in training and in a sweep, at one, two and four processes of DDP with gloo on this machine: the
median over all steps, of rank 0. Where there are fewer cores than processes, all of it grows with their number.
"""

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from report import options, quiet, show, trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_clr import lr_range_test

RANKS = (1, 2, 4)


class Timed(LightningModule):
    """Notes when each of its steps begins."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        TIMES.append(time.perf_counter())
        return cross_entropy(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


TIMES: list[float] = []


def child(ranks: int, steps: int, repeats: int, output: str) -> None:
    """Train and sweep in turns; run by every rank."""
    quiet()
    found: dict[str, list[float]] = {"training": [], "sweep": []}
    data = TensorDataset(torch.randn(64 * steps * ranks, 64), torch.randint(10, (64 * steps * ranks,)))
    sweep = {"num_steps": steps, "max_lr": 1e-2, "stop_factor": None}
    for _ in range(repeats + 1):  # the first is to warm up
        for kind in found:
            TIMES.clear()
            strategy = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {}
            training, loader = trainer(steps, **strategy), DataLoader(data, 64)
            if kind == "training":
                training.fit(Timed(), loader)
            else:
                lr_range_test(training, Timed(), loader, **sweep)
            between = [after - before for before, after in itertools.pairwise(TIMES)]
            found[kind].append(statistics.median(between))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        Path(output).write_text(json.dumps({kind: seconds[1:] for kind, seconds in found.items()}))


def main() -> None:
    """Time everything, and show it."""
    chosen = options(__doc__, "ranks_cost.json")
    steps, repeats = (20, 1) if chosen.quick else (200, chosen.repeats or 7)
    found, rows = {}, []
    for ranks in RANKS[:2] if chosen.quick else RANKS:
        output = Path(f"{chosen.output.resolve()}.{ranks}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment = {**os.environ, "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "child", str(ranks), str(steps), str(repeats), str(output)]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        found[ranks] = json.loads(output.read_text())
        output.unlink()
        training, sweep = (statistics.median(found[ranks][kind]) * 1000 for kind in ("training", "sweep"))
        more = statistics.median(
            (one - other) * 1000 for one, other in zip(found[ranks]["sweep"], found[ranks]["training"], strict=True)
        )
        rows.append([ranks, f"{training:.2f} ms", f"{sweep:.2f} ms", f"{more:+.2f} ms"])
    show(["ranks", "a step of training", "a step of a sweep", "more"], rows, found, chosen.output)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*map(int, sys.argv[2:5]), sys.argv[5])
    else:
        main()
