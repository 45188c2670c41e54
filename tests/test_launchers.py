"""Processes that the trainer launches itself, and strategies that do without torch.distributed."""

import json
import sys

import pytest
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy

from lightning_clr import LRRangeTest
from support.data import loader
from support.models import Plain
from support.processes import SUPPORT, environment, free_port, run_together
from support.training import quiet_trainer

SCRIPT = SUPPORT / "spawning.py"


def spawn(strategy, folder):
    """Run the script; again if torch itself has aborted a process at its exit, whose threads had not ended by then."""
    command = [sys.executable, str(SCRIPT), strategy]
    for _ in range(3):
        where = {"cwd": folder, "env": environment(MASTER_PORT=free_port())}
        (done,) = run_together([{"args": command, **where}], seconds=200)
        if "terminate called without an active exception" not in done.stderr:
            break
    return done


@pytest.mark.processes
@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_notebook"])
def test_result_reaches_the_main_process(strategy, tmp_path):
    """Callback, module and hyper-parameters know it there; `lr_range_test` returns it and leaves the trainer fit."""
    done = spawn(strategy, tmp_path)

    assert done.returncode == 0, done.stderr[-3000:]
    (told,) = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"callback"')]
    assert told["callback"] == told["module"] == told["hparams"]
    assert told["lr"] == told["callback"]["max_lr"]
    assert told["points"] >= 20
    assert told["only points"] >= 20
    assert told["unchanged"]
    assert told["trained"]


class Several(SingleDeviceStrategy):
    """One process that takes itself for one of two, with a reduction of its own instead of torch.distributed."""

    @property
    def is_global_zero(self):
        return True

    def reduce(self, tensor, *args, reduce_op="mean", **kwargs):
        return 2 * tensor if reduce_op == "sum" else tensor


class Forgets(Several):
    """Whose reduction does nothing."""

    def reduce(self, tensor, *args, **kwargs):
        return tensor


class Fails(Several):
    def reduce(self, tensor, *args, reduce_op="mean", **kwargs):
        if reduce_op == "sum" and tensor.is_floating_point():  # Lightning itself adds up lengths
            raise NotImplementedError("no sums here")
        return tensor


def fit(kind, monkeypatch):
    test = LRRangeTest(num_steps=20, closer_look=False)
    trainer = quiet_trainer(max_epochs=1, strategy=kind(torch.device("cpu")), callbacks=[test])
    monkeypatch.setattr(type(trainer), "world_size", 2)
    trainer.fit(Plain(), loader())
    return test.result


def test_strategy_without_torch_distributed_adds_up_itself(monkeypatch):
    """The values are means over its ranks."""
    test = LRRangeTest(num_steps=20, closer_look=False)
    torch.manual_seed(1)
    alone, module = quiet_trainer(max_epochs=1, callbacks=[test]), Plain()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    alone.fit(module, loader())
    monkeypatch.setattr("test_launchers.Plain", lambda: module)
    module.load_state_dict(state)

    assert fit(Several, monkeypatch).values == pytest.approx(test.result.values)


@pytest.mark.parametrize(("kind", "said"), [(Forgets, "gives 1.0"), (Fails, r"gives NotImplementedError\('no sums")])
def test_strategy_that_cannot_add_up_is_refused_by_name(kind, said, monkeypatch):
    """Before the first step."""
    with pytest.raises(ValueError, match=rf"of {kind.__name__}, which does without torch\.distributed, {said}"):
        fit(kind, monkeypatch)
