"""The benchmarks stay alive: what they print and write, not how good or fast it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).with_name("benchmarks")


def test_bounds_benchmark_prints_a_table_and_writes_numbers(tmp_path):
    """Two tasks, seven rules."""
    command = [sys.executable, str(BENCHMARKS / "bounds.py"), "--quick", "--cache", "cache", "--output", "out.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=250)

    assert done.returncode == 0, done.stderr[-2000:]
    regrets = json.loads((tmp_path / "out.json").read_text())["regrets"]
    assert len(regrets) == 7
    assert all(0 <= value <= 1 for tasks in regrets.values() for values in tasks.values() for value in values)
    assert done.stdout.count("| ours, ") == 4
