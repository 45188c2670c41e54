"""Several ranks: real processes, real strategies, gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import free_port, run_together

RANKS = Path(__file__).with_name("ranks.py")


def launch(strategy: str, devices: int, folder: Path) -> subprocess.CompletedProcess:
    """Run the ranks in an empty folder; more than two hundred seconds are taken for a hang."""
    (folder / "run").mkdir()
    environment = {**os.environ, "MASTER_PORT": free_port(), "PYTHONPATH": str(RANKS.parent)}
    command = [sys.executable, str(RANKS), strategy, str(devices), str(folder)]
    (done,) = run_together([{"args": command, "cwd": folder / "run", "env": environment}], seconds=200)
    return done


def train(strategy: str, devices: int, folder: Path) -> list[dict]:
    """What each rank has written down."""
    done = launch(strategy, devices, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


@pytest.mark.parametrize(
    ("strategy", "devices"),
    [
        ("ddp", 2),
        ("ddp", 3),
        ("unused parameters", 2),
        ("static graph", 3),
        ("data parallel shards", 2),
        ("tensor parallel", 2),
        ("2-D parallel", 4),
    ],
)
def test_every_rank_trains_as_if_untested(strategy, devices, tmp_path):
    """Weights, batches, random numbers and states of every rank are bit-identical to those of an untested run."""
    for rank in train(strategy, devices, tmp_path):
        assert rank["steps"] == 14
        assert rank["tested"] == rank["untested"]
        if strategy == "ddp":
            result, _ = rank["nan"]
            assert 0.1 < result["lrs"][-1] < 0.14, "NaN on one rank ends the sweep"


def test_all_ranks_find_the_same_where_one_alone_sees_nan(tmp_path):
    found = [json.dumps(rank["nan"]) for rank in train("ddp", 2, tmp_path)]

    assert len(found) == 2
    assert len(set(found)) == 1


def test_error_of_one_rank_ends_all(tmp_path):
    """Nobody waits for ever for the rank that is gone, and its error is shown once."""
    done = launch("one rank raises", 2, tmp_path)

    assert done.returncode != 0
    assert done.stderr.count("RuntimeError: the real error") == 1
