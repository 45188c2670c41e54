"""A range test makes real steps of Lightning's own loop, and the loop of training starts as if there had been none."""

from functools import partial

import pytest
import torch
import torchmetrics
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from lightning_clr import lr_range_test
from lightning_clr.trial.loop import _moved_once
from support.data import loader
from support.exactness import Case
from support.models import Plain, Scheduled
from support.scenarios import (
    Scenarios,
    both,
    check_bit_identical,
    check_noticed,
    each_mutation,
    forgetting,
    keeping,
    without,
)
from support.training import quiet_trainer

SCENARIOS = Scenarios()


class Measured(Plain):
    """torchmetrics, logged as objects and used by hand."""

    def __init__(self):
        super().__init__()
        self.acc = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.own = torchmetrics.MeanMetric(nan_strategy="ignore")

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = super().training_step(batch, batch_idx)
        self.acc(self(x), y)
        self.own.update(loss.detach())
        self.log("acc", self.acc, on_step=False, on_epoch=True)
        self.log("epoch_loss", loss, on_step=False, on_epoch=True)
        return loss + 0.01 * self.own.compute()


@SCENARIOS.add
def torchmetrics_states():
    return Case(module=Measured)


@SCENARIOS.add
def accumulation():
    return Case(module=Scheduled, trainer={"accumulate_grad_batches": 3})


@SCENARIOS.add
def accumulation_scheduler():
    return Case(callbacks=lambda: [GradientAccumulationScheduler({0: 4, 1: 2})])


@SCENARIOS.add
def clipping_by_norm():
    return Case(trainer={"gradient_clip_val": 0.1})


@SCENARIOS.add
def clipping_by_value():
    return Case(trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"})


class WarmsUp(Plain):
    """Sets the learning rate by hand, as many recipes do."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + self.trainer.global_step)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


@SCENARIOS.add
def optimizer_step_override():
    return Case(module=WarmsUp)


class ClipsByHand(Plain):
    """Clips the body alone."""

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        nn.utils.clip_grad_norm_(self.body.parameters(), gradient_clip_val)


@SCENARIOS.add
def gradient_clipping_override():
    return Case(module=ClipsByHand, trainer={"gradient_clip_val": 0.1})


class Adversarial(Plain):
    """Manual optimization, two optimizers with a scheduler each, toggled."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for index, optimizer in enumerate(self.optimizers()):
            self.toggle_optimizer(optimizer)
            loss = self.loss(batch) * (index + 1)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        for scheduler in self.lr_schedulers():
            scheduler.step()
        return loss.detach()

    def configure_optimizers(self):
        optimizers = [
            torch.optim.SGD(self.body.parameters(), lr=0.05),
            torch.optim.Adam(self.head.parameters(), lr=0.01),
        ]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 3) for optimizer in optimizers]


@SCENARIOS.add
def manual_optimization_with_two_optimizers():
    return Case(module=Adversarial)


@SCENARIOS.add
def bf16():
    return Case(trainer={"precision": "bf16-mixed"})


@SCENARIOS.add
def fp16_with_gradient_scaler():
    scaler = partial(torch.amp.GradScaler, "cpu", init_scale=2.0**14, growth_interval=3)
    return Case(module=Scheduled, trainer={"plugins": [MixedPrecision("16-mixed", "cpu", scaler())]})


@SCENARIOS.add
def anomaly_detection():
    return Case(trainer={"detect_anomaly": True})


@SCENARIOS.add
def validation_in_mid_epoch():
    return Case(trainer={"val_check_interval": 4})


@SCENARIOS.add
def without_sanity_check():
    return Case(trainer={"num_sanity_val_steps": 0})


@SCENARIOS.add
def validation_metric_monitored():
    return Case(test={"monitor": "val_acc", "monitor_mode": "max", "val_every_n_steps": 1}, module=Measured)


@SCENARIOS.add
def shorter_than_the_test():
    return Case(trainer={"max_steps": 5})


@SCENARIOS.in_each_ending
def test_training_is_bit_identical(make, ending, tmp_path, monkeypatch):
    """Weights, batches, losses, random numbers, metrics, states and files equal those of a run without the trial."""
    check_bit_identical(make, ending, tmp_path, monkeypatch)


MUTATIONS = {
    "the fit loop": (keeping("fit_loop"), torchmetrics_states),
    "logged metrics": (
        keeping("_callback_metrics", "_logged_metrics", "_progress_bar_metrics"),
        validation_in_mid_epoch,
    ),
    "schedulers": (
        both(forgetting(LRScheduler), without("trial.asleep._silence_schedulers")),
        manual_optimization_with_two_optimizers,
    ),
    "gradient scaler": (forgetting(torch.amp.GradScaler), fp16_with_gradient_scaler),
}


@each_mutation(MUTATIONS)
def test_every_part_of_the_restoration_is_needed(mutate, make, tmp_path, monkeypatch):
    """With any one part switched off, the comparison above fails: it can tell."""
    check_noticed(mutate, make, tmp_path, monkeypatch)


def test_logged_values_find_their_metric_on_its_device(monkeypatch):
    """It moves when the first value comes, and not again with every other, in which Lightning copies its settings."""
    moved = []
    move = _ResultMetric.to
    monkeypatch.setattr(_ResultMetric, "to", lambda self, device: moved.append(self.meta.name) or move(self, device))

    lr_range_test(quiet_trainer(max_epochs=1), Plain(), loader(), num_steps=10, closer_look=False)

    assert moved.count("train_loss") == 1


@pytest.mark.parametrize("devices", [("cpu", "meta", "meta"), ("cpu", "cpu", "meta")])
def test_logged_values_may_come_from_several_devices(devices):
    """A metric follows its values where Lightning's own does, here to the device that stores nothing."""

    def found(results):
        for device in devices:
            results.log("training_step", "loss", torch.zeros((), device=device), on_step=True, on_epoch=False)
            yield results["training_step.loss"].cumulated_batch_size.device.type

    plain = _ResultCollection(training=True)

    assert [*found(_moved_once(plain))] == [*found(plain)]
