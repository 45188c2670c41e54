"""What training steps change is put back: weights, states, modes, and Python objects of all kinds."""

import random
from collections import deque
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

import lightning_clr.trial.snapshot
from lightning_clr.trial.kinds import Standing
from lightning_clr.trial.snapshot import Snapshot
from support.exactness import Case
from support.models import Plain, WithDropout, optimized
from support.scenarios import (
    Scenarios,
    check_bit_identical,
    check_noticed,
    each_mutation,
    forgetting,
    without,
)

SCENARIOS = Scenarios()


put_back = lightning_clr.trial.snapshot.put_back_tensor


@SCENARIOS.add
def dropout():
    return Case(module=WithDropout)


class Normalized(Plain):
    """Batch normalization, and buffers written in place, replaced, left out of checkpoints and born late."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("in_place", torch.zeros(3), persistent=False)
        self.register_buffer("replaced", torch.zeros(()))

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x)))) + self.replaced

    def training_step(self, batch, batch_idx):
        self.in_place += 1
        self.replaced = self.replaced * 0.5 + 0.01
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.zeros(1))
        self.late += 1
        return super().training_step(batch, batch_idx) + 0.01 * self.in_place.sum() + self.late.sum()


@SCENARIOS.add
def batchnorm_and_buffers():
    return Case(module=Normalized)


class Slotted:
    """A helper without a dictionary."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = 0


class Log(list):
    """A list with an attribute."""

    total = 0

    def add(self, value):
        self.append(value)
        self.total += value


def counter():
    """A function that remembers."""
    calls = 0

    def count():
        nonlocal calls
        calls += 1
        return calls

    return count


class Meter:
    """A user's own helper object."""

    def __init__(self):
        self.total, self.history = 0.0, {"seen": [1]}

    def update(self, value):
        self.total += value
        self.history["seen"].append(value)


class Remembers(Plain):
    """Python state of many kinds, all of which enters the loss."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.losses, self.names, self.recent = [], {"first"}, deque(maxlen=3)
        self.nested = {"deep": [{"value": 0}], "pair": ([0], 1)}
        self.array, self.tensor = np.zeros(2), torch.zeros(2)
        self.meter, self.rng = Meter(), np.random.RandomState(3)
        self.draws = torch.Generator().manual_seed(2)
        self.hidden = [nn.Linear(3, 3)]
        self.slotted, self.log_book, self.space, self.count_calls = Slotted(), Log(), SimpleNamespace(n=0), counter()
        self.read_only = np.broadcast_to(np.ones(1), (3,))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.count += 1
        self.losses.append(loss.item())
        self.names.add(str(self.count))
        self.recent.append(self.count)
        self.nested["deep"][0]["value"] += 1
        self.nested["pair"][0][0] += 1
        self.array += 1
        self.tensor += 1
        self.meter.update(1)
        self.born = getattr(self, "born", 0) + 1
        self.hidden[0].weight.data.add_(0.01)
        self.slotted.value += 1
        self.log_book.add(1)
        self.space.n += 1
        self.nested["called"] = self.count_calls() + self.slotted.value + self.log_book.total + self.space.n
        state = self.count + len(self.losses) + len(self.names) + sum(self.recent) + self.nested["deep"][0]["value"]
        state += (
            self.nested["called"]
            + self.nested["pair"][0][0]
            + self.array.sum()
            + self.tensor.sum()
            + self.meter.total
            + self.born
        )
        state += self.rng.rand() + torch.rand((), generator=self.draws) + self.hidden[0].weight.sum().item()
        return loss * (1 + 1e-3 * float(state))


@SCENARIOS.add
def python_state():
    return Case(module=Remembers)


class Hooked(Plain):
    """Registers a hook on a parameter when training starts, and writes into a tensor under autograd."""

    def __init__(self):
        super().__init__()
        self.hooked = False
        self.memory = torch.zeros(3)

    def training_step(self, batch, batch_idx):
        if not self.hooked:
            self.hooked = True
            self.body.weight.register_hook(lambda grad: grad * 1.5)
        memory = self.memory
        memory += self.head.bias * 0.1
        self.memory = memory.detach()
        return super().training_step(batch, batch_idx) + memory.sum()


@SCENARIOS.add
def hooks_on_parameters_and_tensors_under_autograd():
    return Case(module=Hooked)


class Freezes(Plain):
    """Switches modes and gradients while it trains."""

    def training_step(self, batch, batch_idx):
        self.head.requires_grad_(self.global_step % 2 == 0)
        self.body.train(self.global_step % 3 == 0)
        return super().training_step(batch, batch_idx)


@SCENARIOS.add
def modes_and_frozen_parameters():
    return Case(module=Freezes)


class Compiled(Normalized):
    def __init__(self):
        super().__init__()
        self.body = torch.compile(self.body, backend="eager")


@SCENARIOS.add
def compiled_layer():
    return Case(module=Compiled)


def adam(module: LightningModule) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=0.01)


@SCENARIOS.add
def adam_without_schedule():
    return Case(module=optimized(adam))


@SCENARIOS.add
def adamw_with_tensor_lr():
    return Case(module=optimized(lambda m: torch.optim.AdamW(m.parameters(), lr=torch.tensor(0.01), foreach=False)))


@SCENARIOS.add
def adagrad_has_state_before_its_first_step():
    return Case(module=optimized(lambda m: torch.optim.Adagrad(m.parameters(), lr=0.1)))


@SCENARIOS.in_each_ending
def test_training_is_bit_identical(make, ending, tmp_path, monkeypatch):
    """Weights, batches, losses, random numbers, metrics, states and files equal those of a run without the trial."""
    check_bit_identical(make, ending, tmp_path, monkeypatch)


MUTATIONS = {
    "tensors": (without("trial.snapshot.put_back_tensor"), dropout),
    "gradient switches": (
        without(
            "trial.snapshot.put_back_tensor",
            lambda tensor, copy, _, *rest: put_back(tensor, copy, tensor.requires_grad, *rest),
        ),
        modes_and_frozen_parameters,
    ),
    "gradients and hooks": (
        without(
            "trial.snapshot.put_back_tensor",
            lambda tensor, copy, switch, _, *rest: put_back(tensor, copy, switch, {}, *rest),
        ),
        hooks_on_parameters_and_tensors_under_autograd,
    ),
    "arrays": (without("trial.snapshot.array_state"), python_state),
    "containers": (without("trial.snapshot.container_state"), python_state),
    "tuples": (forgetting(tuple), python_state),
    "lists": (forgetting(list), python_state),
    "sets": (forgetting(set), python_state),
    "queues": (forgetting(deque), python_state),
    "the user's objects": (
        without("trial.kinds.Kinds._of_objects", lambda self, kind: Standing.CONSTANT),
        python_state,
    ),
    "attributes": (without("trial.snapshot.Snapshot.add_attributes"), python_state),
    "global random numbers": (without("trial.snapshot.set_rng_state"), dropout),
    "modules": (forgetting(nn.Module), batchnorm_and_buffers),
    "optimizers": (forgetting(torch.optim.Optimizer), adam_without_schedule),
}


@each_mutation(MUTATIONS)
def test_every_part_of_the_restoration_is_needed(mutate, make, tmp_path, monkeypatch):
    """With any one part switched off, the comparison above fails: it can tell."""
    check_noticed(mutate, make, tmp_path, monkeypatch)


def held_on(snapshot: Snapshot) -> set[str]:
    """The devices of the copies of parameters."""
    undone = [undo for undo in snapshot._undo if isinstance(undo, partial)]
    return {undo.args[1].device.type for undo in undone if undo.func is lightning_clr.trial.snapshot.put_back_tensor}


def test_copies_are_kept_on_the_device_asked_for():
    """Here on one that stores nothing."""
    snapshot = Snapshot("meta")
    snapshot.add(Plain())

    assert held_on(snapshot) == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_of_a_gpu_may_be_kept_on_the_host():
    """By default they are beside the originals."""
    beside, host = Snapshot(), Snapshot("cpu")
    beside.add(module := Plain().cuda())
    host.add(module)

    assert held_on(beside) == {"cuda"}
    assert held_on(host) == {"cpu"}


class Broken(random.Random):
    """Cannot be put back."""

    def setstate(self, state):
        raise RuntimeError("stuck")


def test_what_cannot_be_put_back_does_not_keep_the_others():
    """The error is shown when all the rest is done."""
    module = Plain()
    module.before, module.dice, module.after = [], Broken(), {}
    weight = module.head.weight.detach().clone()
    snapshot = Snapshot()
    snapshot.add(module)
    torch.nn.init.zeros_(module.head.weight)
    module.dice.random()
    module.before.append(1)
    module.after["key"] = 1

    with pytest.raises(RuntimeError, match="stuck"):
        snapshot.__exit__(None, None, None)
    assert (module.before, module.after) == ([], {})
    assert torch.equal(module.head.weight, weight)


class Interrupted(random.Random):
    """As by Ctrl-C."""

    def setstate(self, state):
        raise KeyboardInterrupt


@pytest.mark.parametrize("dice", [[Broken(), Interrupted()], [Interrupted(), Broken()]], ids=["last", "first"])
def test_interrupt_is_not_lost_among_errors(dice):
    snapshot = Snapshot()
    snapshot.add(dice)
    for one in dice:
        one.random()

    with pytest.raises(KeyboardInterrupt):
        snapshot.__exit__(None, None, None)
