"""The wrapper of DDP after a range test: the same object, with what users have registered, as if it were new."""

import json
import sys

import pytest

from support.processes import SUPPORT, environment, free_port, run_together

WRAPPED = SUPPORT / "wrapped.py"
pytestmark = pytest.mark.processes


@pytest.mark.parametrize("devices", [2, 3])
def test_what_is_registered_on_the_wrapper_goes_on(devices, tmp_path):
    """Hooks are called as often, their states are what they would be, and weights are bit-identical on all ranks."""
    (tmp_path / "run").mkdir()
    where = {"cwd": tmp_path / "run", "env": environment(MASTER_PORT=free_port(), DEVICES=str(devices))}
    command = [sys.executable, str(WRAPPED), str(tmp_path)]
    (done,) = run_together([{"args": command, **where}], seconds=400)

    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    assert len(ranks) == devices
    for rank in ranks:
        for name, (untested, tested) in rank.items():
            assert tested[2] >= 5, "steps of the trial"
            assert tested[:2] == untested[:2], name
