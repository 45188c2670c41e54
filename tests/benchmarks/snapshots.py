"""What does it cost to undo? ``python tests/benchmarks/snapshots.py [--quick]``.

To remember a module and to put it back, as a range test does, against one ``clone()`` of all its tensors, one copy back
into them, and a checkpoint on the disk of this machine, written and read as Lightning does. Median of several rounds.
"""

import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from report import in_turns, options, ratio, show, trainer

import lightning_clr.trial.snapshot
from lightning_clr.trial.snapshot import Snapshot

SIZES = {  # number of layers and of their inputs
    "1 M": (1, 1000),
    "10 M": (10, 1000),
    "100 M": (100, 1000),
    "500 M": (500, 1000),
    "0.3 M in 1,000 layers": (1000, 16),
}


class Layers(LightningModule):
    """Square layers."""

    def __init__(self, number: int, side: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(number)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def clone(module: Layers) -> Callable[[], object]:
    """The unit of remembering."""
    return lambda: [parameter.detach().clone() for parameter in module.parameters()]


def copy_back(module: Layers) -> Callable[[], object]:
    """The unit of putting back."""
    copies = [parameter.detach().clone() for parameter in module.parameters()]

    def run() -> None:
        with torch.no_grad():
            for parameter, copy in zip(module.parameters(), copies, strict=True):
                parameter.copy_(copy)

    return run


def remember(module: Layers) -> Callable[[], object]:
    """Ours; with the random generators."""

    def run() -> Snapshot:
        snapshot = Snapshot()
        snapshot.add(module)
        return snapshot

    return run


def put_back(module: Layers) -> Callable[[], object]:
    """Ours."""
    snapshot = Snapshot()
    snapshot.add(module)
    return functools.partial(snapshot.__exit__, None, None, None)


def write(path: Path, module: Layers) -> Callable[[], object]:
    """A checkpoint as Lightning writes it."""
    saving = trainer(1)
    saving.strategy.connect(module)
    return functools.partial(saving.save_checkpoint, path, weights_only=True)


def read(path: Path, module: Layers) -> Callable[[], object]:
    """The same, read and loaded."""
    strategy = trainer(1).strategy
    strategy.connect(module)
    return lambda: strategy.load_model_state_dict(strategy.load_checkpoint(path))


def held(module: Layers) -> int:
    """Bytes of the tensors that a snapshot holds."""
    snapshot = Snapshot()
    snapshot.add(module)
    undone = [undo for undo in snapshot._undo if isinstance(undo, functools.partial)]
    copies = [undo.args[1] for undo in undone if undo.func is lightning_clr.trial.snapshot.put_back_tensor]
    return sum(copy.nbytes for copy in copies)


def main() -> None:
    """Time everything, and show it."""
    chosen = options(__doc__, "snapshots.json")
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "all.ckpt")
        for name, (number, side) in [*SIZES.items()][: 2 if chosen.quick else None]:
            module = Layers(number, side)
            ways = {"clone": clone, "remember": remember, "copy back": copy_back, "put back": put_back}
            ways |= {"write": functools.partial(write, path), "read": functools.partial(read, path)}
            repeats = chosen.repeats or (2 if chosen.quick else 3 if name == "500 M" else 9)
            seconds = in_turns({kind: functools.partial(way, module) for kind, way in ways.items()}, repeats)
            found[name] = {"seconds": seconds, "bytes": held(module), "weights": 4 * number * side**2}
    rows = []
    for name, numbers in found.items():
        seconds = numbers["seconds"]
        times = {kind: f"{statistics.median(taken) * 1000:.1f} ms" for kind, taken in seconds.items()}
        remembered, back = (
            ratio(seconds["remember"], seconds["clone"]),
            ratio(seconds["put back"], seconds["copy back"]),
        )
        both = [f"{times['remember']} ({remembered:.2f})", f"{times['put back']} ({back:.2f})"]
        size = f"{numbers['bytes'] / numbers['weights']:.2f}"
        rows.append([name, *both, size, times["clone"], times["write"], times["read"]])
    head = ["parameters", "remember (in clones)", "put back (in copies)", "bytes (in weights)", "clone"]
    show([*head, "checkpoint: write", "read"], rows, found, chosen.output)


if __name__ == "__main__":
    main()
