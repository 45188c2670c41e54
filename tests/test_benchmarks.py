"""The benchmarks stay alive: what they print and write, not how good or fast it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).with_name("benchmarks")


def quick(name, folder):
    """What a benchmark prints and writes in its quick mode."""
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--output", "out.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)

    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads((folder / "out.json").read_text())


@pytest.mark.processes
def test_bounds_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """Two tasks; this package and seven finders, three seeds each."""
    table, found = quick("bounds.py", tmp_path)

    assert len(found) == 2
    assert table.count("| dev |") == 8
    for finders in found.values():
        assert len(finders) == 8
        assert all(len(seeds) == 3 and all(0 <= seed["regret"] <= 1 for seed in seeds) for seeds in finders.values())


@pytest.mark.processes
def test_payoff_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """One task; parts of its steps, and what is lost."""
    table, found = quick("payoff.py", tmp_path)

    (row,) = found.values()
    assert set(row) == {"scores", "best constant", "torch's default", "Cyclic loses", "constant loses"}
    assert 0 < row["torch's default"] <= 1
    assert table.count("\n") == 4


@pytest.mark.processes
def test_cost_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """Six ways of making steps, on two nets, once each."""
    table, found = quick("cost.py", tmp_path)

    assert table.count("\n") == 8
    assert list(found["seconds"]) == ["MLP 64-64-64-10", "MLP 64-2048-2048-10"]
    assert all(len(ways) == 6 and all(map(len, ways.values())) for ways in found["seconds"].values())


@pytest.mark.processes
def test_schedule_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """Two schedules and torch's two, on three numbers of groups; steps leave no memory behind that grows."""
    table, found = quick("schedule_step.py", tmp_path)

    assert table.count("\n") == 6
    assert all(set(cells) == {"bytes left", "1", "10", "1000"} for cells in found.values())
    assert all(cells["bytes left"] < 2000 for cells in found.values()), "of a hundred steps"


@pytest.mark.processes
def test_snapshot_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """Two sizes; a snapshot holds each weight once."""
    table, found = quick("snapshots.py", tmp_path)

    assert table.count("\n") == 4
    assert {name: numbers["bytes"] for name, numbers in found.items()} == {"1 M": 4_000_000, "10 M": 40_000_000}
    assert all(len(numbers["seconds"]) == 6 for numbers in found.values())


@pytest.mark.processes
def test_memory_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """One optimizer; a process that trains needs more than its weights."""
    table, found = quick("memory.py", tmp_path)

    assert table.count("\n") == 3
    assert found["SGD"]["weights"] == 4 * 10 * 4 * (500 * 500 + 500)
    assert min(found["SGD"]["untested"], found["SGD"]["tested"]) > found["SGD"]["weights"]


@pytest.mark.processes
def test_ranks_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """One process and two."""
    table, found = quick("ranks_cost.py", tmp_path)

    assert table.count("\n") == 4
    assert all(set(ranks) == {"training", "sweep"} for ranks in found.values())
    assert list(found) == ["1", "2"]


def test_truth_is_known_for_every_task():
    """The file holds scores of 33 learning rates and three seeds, for both uses of a learning rate."""
    truth = json.loads((BENCHMARKS / "truth.json").read_text())

    names = set(truth["onecycle"])
    assert names == set(truth["fixed"])
    assert len(names) == 73
    assert all(len(seeds) == 3 for kind in truth.values() for task in kind.values() for seeds in task["scores"])
