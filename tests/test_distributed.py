"""Several ranks: real processes, real strategies, gloo."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

RANKS = Path(__file__).with_name("ranks.py")


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def train(strategy: str, devices: int, which: str, folder: Path) -> list[dict]:
    """What each rank has written down; trained in an empty folder."""
    (folder / which).mkdir()
    environment = {**os.environ, "MASTER_PORT": free_port(), "PYTHONPATH": str(RANKS.parent)}
    command = [sys.executable, str(RANKS), strategy, str(devices), which, str(folder)]
    done = subprocess.run(command, cwd=folder / which, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{which}-{rank}.json").read_text()) for rank in range(devices)]


@pytest.mark.parametrize(("strategy", "devices"), [("ddp", 2), ("ddp", 3)])
def test_every_rank_trains_as_if_untested(strategy, devices, tmp_path):
    """Weights, batches, random numbers and states of every rank are bit-identical to those of an untested run."""
    tested = train(strategy, devices, "with", tmp_path)
    untested = train(strategy, devices, "without", tmp_path)

    assert [rank["trace"] for rank in tested] == [rank["trace"] for rank in untested]
    assert all(rank["trace"] for rank in tested)

    results = [json.dumps(rank["result"]) for rank in tested]
    assert len(set(results)) == 1, "all ranks find the same, although one alone sees NaN"
    assert len({rank["lr"] for rank in tested}) == 1
    assert 0.1 < tested[0]["result"]["lrs"][-1] < 0.14
