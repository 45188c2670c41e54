"""A resumed training continues as if it had never been interrupted."""

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from lightning_clr import Cyclic, LRRangeTest, OneCycle
from support.data import loader
from support.models import Plain, Scheduled
from support.training import quiet_trainer


class Record(Callback):
    """Learning rate and momentum of every training step."""

    def __init__(self):
        self.steps = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        group = trainer.optimizers[0].param_groups[0]
        self.steps.append((trainer.global_step, group["lr"], group.get("momentum")))


class TorchCyclic(Plain):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, 1e-4, 1e-3, step_size_up=7)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class TorchOneCycle(Plain):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=48)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


MODULES = {
    "1cycle": lambda: Scheduled(schedule=OneCycle()),
    "cyclic": lambda: Scheduled(schedule=Cyclic(cycles=2, mode="triangular2")),
    "torch CyclicLR": TorchCyclic,
    "torch OneCycleLR": TorchOneCycle,
    "no schedule": Plain,
}


def fit(make, epochs, ckpt_path=None, tested=True):
    """Train, and return what was recorded, the weights, and the test."""
    torch.manual_seed(2)
    record, test = Record(), LRRangeTest()
    trainer = quiet_trainer(max_epochs=3, callbacks=[record, *([test] if tested else []), StopAfter(epochs)])
    module = make()
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return record.steps, [*module.parameters()], test, trainer


class StopAfter(Callback):
    """Ends training early, as a killed job would, and leaves a checkpoint."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True

    def on_train_end(self, trainer, pl_module):
        trainer.save_checkpoint("last.ckpt")


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("tested", [True, False], ids=["with the callback", "without it"])
def test_resumed_equals_uninterrupted(make, tested):
    """Same learning rates, momenta and weights, step for step, whether or not the callback is still there."""
    whole, weights, first_test, _ = fit(make, epochs=3)
    fit(make, epochs=1)

    rest, resumed_weights, test, _ = fit(make, epochs=3, ckpt_path="last.ckpt", tested=tested)

    assert len(whole) == 48
    assert rest == whole[16:]
    assert all(map(torch.equal, weights, resumed_weights))
    assert test.result == (first_test.result if tested else None)


def test_module_knows_the_bounds_after_resuming():
    """As it did in the first run."""
    _, _, test, _ = fit(MODULES["1cycle"], epochs=1)

    _, _, _, trainer = fit(MODULES["1cycle"], epochs=3, ckpt_path="last.ckpt")

    assert trainer.lightning_module.lr_bounds == test.result.bounds


def test_checkpoint_holds_plain_data():
    """It loads under weights_only=True, with bounds and curve as numbers."""
    _, _, test, _ = fit(MODULES["1cycle"], epochs=1)

    checkpoint = torch.load("last.ckpt", weights_only=True)

    assert checkpoint["callbacks"]["LRRangeTest"]["result"]["curves"][0]["lrs"] == test.result.lrs
    assert checkpoint["lr_schedulers"][0]["max_lr"] == test.result.bounds.max_lr


def test_longer_training_continues_on_the_longer_schedule():
    """The position is kept, the length is the new one, and a warning tells both learning rates."""
    fit(MODULES["1cycle"], epochs=3)
    record = Record()
    trainer = quiet_trainer(max_epochs=6, callbacks=[record])

    with pytest.warns(UserWarning, match="made for 48 optimizer steps, training now has 96"):
        trainer.fit(Scheduled(), loader(), ckpt_path="last.ckpt")

    assert [step for step, _, _ in record.steps] == list(range(48, 96))
    assert record.steps[0][1] > record.steps[-1][1] > 0
