"""A schedule ends when training ends, and is where training is."""

import warnings

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, StepLR

from lightning_clr import CLRMixin, Cyclic, LRBounds, LRRangeTest, OneCycle
from lightning_clr.configure import attach_schedule
from support.data import loader
from support.models import Plain, Scheduled
from support.training import quiet_trainer


class Rates(Callback):
    """The learning rate of each optimizer step."""

    def __init__(self):
        self.lrs = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.lrs.append(optimizer.param_groups[0]["lr"])


def attached():
    module = Plain()
    attach_schedule(module, OneCycle())
    return module


makers = pytest.mark.parametrize("make", [Scheduled, attached], ids=["mixin", "attached"])


def one_cycle(steps, lr=0.1):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step() if len(lrs) < steps else None
    return pytest.approx(lrs)


SECOND = {
    "epochs": ({"max_epochs": 1}, lambda trainer: setattr(trainer.fit_loop, "max_epochs", 3), 32),
    "accumulation": (
        {"max_epochs": 1, "accumulate_grad_batches": 3},
        lambda trainer: setattr(trainer.fit_loop, "max_epochs", 2),
        6,
    ),
    "steps": ({"max_steps": 10}, lambda trainer: setattr(trainer.fit_loop.epoch_loop, "max_steps", 24), 14),
}


@makers
@pytest.mark.parametrize(("arguments", "extend", "steps"), SECOND.values(), ids=SECOND.keys())
def test_second_fit_has_a_schedule_of_its_own_length(make, arguments, extend, steps):
    """The trainer counts on where the first fit ended."""
    module, rates = make(), Rates()
    trainer = quiet_trainer(callbacks=[rates], **arguments)
    trainer.fit(module, loader())
    rates.lrs.clear()
    extend(trainer)
    trainer.fit(module, loader())

    assert rates.lrs == one_cycle(steps)


def test_second_fit_that_resumes_goes_on_with_the_first():
    """The checkpoint says where training was; the plan is that of the whole."""
    module, rates = Scheduled(), Rates()
    trainer = quiet_trainer(max_epochs=2, callbacks=[rates])
    trainer.fit(module, loader())
    trainer.save_checkpoint("first.ckpt")
    trainer.fit_loop.max_epochs = 4
    with pytest.warns(UserWarning, match="made for 32 optimizer steps, training now has 64"):
        trainer.fit(module, loader(), ckpt_path="first.ckpt")

    whole = one_cycle(64).expected
    assert rates.lrs[32:] == pytest.approx(whole[32:])


class Reloaded(LightningDataModule):
    """Another number of batches in each epoch."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes

    def train_dataloader(self):
        return loader(self.sizes[self.trainer.current_epoch])


@makers
@pytest.mark.parametrize("sizes", [[64, 128, 256], [256, 128, 64], [64, 256, 64]], ids=["grow", "shrink", "both"])
def test_schedule_follows_epochs_that_change_their_length(make, sizes):
    """It ends with the last step, and no step is made after its end."""
    rates = Rates()
    trainer = quiet_trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1, callbacks=[rates])
    trainer.fit(make(), datamodule=Reloaded(sizes))

    steps = sum(sizes) // 16
    assert len(rates.lrs) == trainer.lr_scheduler_configs[0].scheduler.total_steps == steps
    assert rates.lrs[-1] == pytest.approx(4e-7)
    assert rates.lrs[-4:] == pytest.approx(one_cycle(steps).expected[-4:])
    assert min(rates.lrs[:-1]) > 4e-5


class Extends(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.fit_loop.max_epochs = 3


def test_schedule_follows_a_training_that_is_extended():
    """A callback gives it another epoch."""
    rates = Rates()
    quiet_trainer(max_epochs=2, callbacks=[rates, Extends()]).fit(Scheduled(), loader())

    assert len(rates.lrs) == 48
    assert rates.lrs[20:] == pytest.approx(one_cycle(48).expected[20:])


class Chunks(CLRMixin, Plain):
    """Truncated backpropagation: several steps of optimizer and schedule for each batch."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for part in zip(*(tensor.chunk(4) for tensor in batch), strict=True):
            self.optimizers().zero_grad()
            self.manual_backward(self.loss(part))
            self.optimizers().step()
            self.lr_schedulers().step()

    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers())


def test_schedule_that_passes_its_end_says_so_once():
    """With what to do."""
    with pytest.warns(UserWarning, match="planned") as caught:
        quiet_trainer(max_epochs=1).fit(Chunks(), loader())

    told = [str(one.message) for one in caught if "planned" in str(one.message)]
    assert len(told) == 1
    assert "planned for 16 optimizer steps, but training makes more" in told[0]
    assert "`total_steps=…` of `with_schedule`" in told[0]


def test_schedule_that_ends_with_training_says_nothing():
    """Nor does the sweep of a range test."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*planned")
        quiet_trainer(max_epochs=2, callbacks=[LRRangeTest(num_steps=40)]).fit(Scheduled(), loader())


class Foreign(Plain):
    """Saved with another scheduler."""

    def __init__(self, make=None, interval="step"):
        super().__init__()
        self.make, self.interval = make, interval

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if self.make is None:
            return optimizer
        scheduler = {"scheduler": self.make(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


FOREIGN = {
    "cosine": (lambda optimizer: CosineAnnealingLR(optimizer, 20), "step"),
    "per epoch": (lambda optimizer: StepLR(optimizer, 1), "epoch"),
    "lambda": (lambda optimizer: LambdaLR(optimizer, lambda step: 0.5), "step"),
    "none": (None, "step"),
}


@makers
@pytest.mark.parametrize(("other", "interval"), FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("tested", [False, True])
def test_schedule_takes_the_place_of_another(make, other, interval, tested):
    """It is where training is, and says what it could not take over."""
    first = quiet_trainer(max_epochs=2)
    first.fit(Foreign(other, interval), loader())
    first.save_checkpoint("other.ckpt")
    rates, tests = Rates(), [LRRangeTest()] if tested else []
    with pytest.warns(UserWarning, match="made with another scheduler|does not say where OneCycle was"):
        quiet_trainer(max_epochs=4, callbacks=[rates, *tests]).fit(make(), loader(), ckpt_path="other.ckpt")

    assert len(rates.lrs) == 32
    assert rates.lrs[1:] == pytest.approx(one_cycle(64).expected[33:])


class OwnScheduler(Plain):
    """Manual optimization with a scheduler that runs out at the end of training."""

    automatic_optimization = False
    kept = False

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        (self.scheduler if self.kept else self.lr_schedulers()).step()
        return loss

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=16)
        if self.kept:
            self.scheduler = scheduler
            return optimizer
        return [optimizer], [scheduler]


class KeepsScheduler(OwnScheduler):
    """And does not tell Lightning of it."""

    kept = True


class StepsInHook(Plain):
    """Automatic optimization, with a scheduler that the module steps itself."""

    def on_train_batch_end(self, *_):
        self.schedulers[0].step()

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        self.schedulers = [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=16)]
        return optimizer


@pytest.mark.parametrize("make", [OwnScheduler, KeepsScheduler, StepsInHook])
def test_scheduler_that_users_code_steps_does_not_run_out_in_the_sweep(make):
    """The sweep is longer than the training."""
    test, module = LRRangeTest(num_steps=60), make()
    trainer = quiet_trainer(max_epochs=1, callbacks=[test])
    trainer.fit(module, loader())
    held = [*vars(module).get("schedulers", []), *([module.scheduler] if module.__class__ is KeepsScheduler else [])]
    schedulers = held or [config.scheduler for config in trainer.lr_scheduler_configs]

    assert len(test.result.lrs) > 30
    assert [scheduler.last_epoch for scheduler in schedulers] == [16] * len(schedulers)
    assert all("step" not in scheduler.state_dict() for scheduler in schedulers)


class OwnStart(CLRMixin, Plain):
    """Explicit totals are the user's."""

    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers(), total_steps=100)


def test_explicit_total_is_not_planned_anew():
    """Whatever the data do."""
    module = OwnStart(schedule=Cyclic(cycles=1), lr_bounds=LRBounds(0.1, 0.2))
    trainer = quiet_trainer(max_epochs=2, reload_dataloaders_every_n_epochs=1)
    trainer.fit(module, datamodule=Reloaded([64, 128]))

    assert trainer.lr_scheduler_configs[0].scheduler.total_steps == 100
