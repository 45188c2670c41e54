"""The benchmarks stay alive: what they print and write, not how good or fast it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).with_name("benchmarks")


def quick(name, folder):
    """What a benchmark prints and writes in its quick mode."""
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--output", "out.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=250)

    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, json.loads((folder / "out.json").read_text())


def test_bounds_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """Two tasks; this package and seven finders, three seeds each."""
    table, found = quick("bounds.py", tmp_path)

    assert len(found) == 2
    assert table.count("| dev |") == 8
    for finders in found.values():
        assert len(finders) == 8
        assert all(len(seeds) == 3 and all(0 <= seed["regret"] <= 1 for seed in seeds) for seeds in finders.values())


def test_payoff_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """One task; parts of its steps, and what is lost."""
    table, found = quick("payoff.py", tmp_path)

    (row,) = found.values()
    assert set(row) == {"scores", "best constant", "torch's default", "Cyclic loses", "constant loses"}
    assert 0 < row["torch's default"] <= 1
    assert table.count("\n") == 4


def test_truth_is_known_for_every_task():
    """The file holds scores of 33 learning rates and three seeds, for both uses of a learning rate."""
    truth = json.loads((BENCHMARKS / "truth.json").read_text())

    names = set(truth["onecycle"])
    assert names == set(truth["fixed"])
    assert len(names) == 73
    assert all(len(seeds) == 3 for kind in truth.values() for task in kind.values() for seeds in task["scores"])
