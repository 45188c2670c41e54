"""What the benchmarks of cost share: options, paired timing, and a table."""

import argparse
import gc
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer


def options(description: str | None, output: str) -> argparse.Namespace:
    """The command line, read; one thread and no chatter from here on."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small and few, within half a minute")
    parser.add_argument("--repeats", type=int, default=None, help="how often everything is timed")
    parser.add_argument("--output", type=Path, default=Path(output), help="where the numbers go")
    quiet()
    return parser.parse_args()


def quiet() -> None:
    """One thread and no chatter from here on."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)


def trainer(steps: int, **kwargs: Any) -> Trainer:
    """One that writes and prints nothing."""
    one = {"accelerator": "cpu", "devices": 1, "max_steps": steps, "max_epochs": -1}
    return Trainer(
        **{**one, **kwargs}, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tempfile.gettempdir(),
    )  # fmt: skip


def in_turns(contenders: Mapping[str, Callable[[], Callable[[], object]]], repeats: int) -> dict[str, list[float]]:
    """Seconds that each contender takes, once in every round, so that a noisy moment strikes all of them.

    Args:
        contenders: By name, what prepares a run and returns it.
        repeats: Number of rounds, after one to warm up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repeats + 1):
        for name, prepare in contenders.items():
            run = prepare()
            gc.collect()
            start = time.perf_counter()
            run()
            end = time.perf_counter()
            del run  # and what it holds
            if number:
                seconds[name].append(end - start)
    return seconds


def ratio(seconds: Sequence[float], unit: Sequence[float]) -> float:
    """Median of the ratios within each round."""
    return statistics.median(one / other for one, other in zip(seconds, unit, strict=True))


def show(head: Sequence[str], rows: Sequence[Sequence[Any]], found: Any, output: Path) -> None:
    """Print a table, and write the numbers that it is made of."""
    lines = [head, ["---"] * len(head), *rows]
    sys.stdout.write("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n")
    output.write_text(json.dumps(found, indent=1))
