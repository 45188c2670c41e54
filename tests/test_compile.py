"""Compiled modules, layers and optimizers: compiled once, whatever the learning rate does."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from lightning_clr import LRRangeTest
from support.data import loader
from support.models import Scheduled
from support.training import quiet_trainer


class Unlogged(Scheduled):
    """Lightning's ``log`` cannot be compiled."""

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class CompiledBody(Scheduled):
    def __init__(self, counter):
        super().__init__()
        self.body = torch.compile(self.body, backend=counter)


class CompiledOptimizer(Scheduled):
    def __init__(self, counter, lr):
        super().__init__()
        self.counter, self.lr = counter, lr

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, foreach=False)
        self.compiled_step = torch.compile(optimizer.step, backend=self.counter)
        return self.with_schedule(optimizer)

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        optimizer_closure()
        self.compiled_step()


COMPILED = {
    "module": (lambda counter: torch.compile(Unlogged(), backend=counter), 1),
    "layer": (CompiledBody, 1),
    "optimizer with a tensor as lr": (lambda counter: CompiledOptimizer(counter, torch.tensor(0.1)), 1),
    "optimizer with a number as lr": (lambda counter: CompiledOptimizer(counter, 0.1), 2),
}


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's, about its own compiler
@pytest.mark.parametrize("tested", [False, True], ids=["training", "sweep and training"])
@pytest.mark.parametrize(("make", "compilations"), COMPILED.values(), ids=COMPILED)
def test_a_sweep_compiles_nothing_again(make, compilations, tested):
    """Training alone compiles as often; a learning rate that is a number is compiled again when it moves."""
    torch._dynamo.reset()
    counter, test = CompileCounter(), LRRangeTest(num_steps=40, budget=200)
    trainer = quiet_trainer(max_epochs=1, callbacks=[test] if tested else [])

    trainer.fit(make(counter), loader())

    assert counter.frame_count == compilations
    assert trainer.global_step == 16
    assert (test.result is not None and test.result.bounds is not None) == tested
