"""Learning rate schedulers, callbacks and loggers sleep during a range test: to them it has never been."""

import pytest
import torch
from pytorch_lightning import callbacks
from pytorch_lightning.callbacks import BaseFinetuning, EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch.optim.lr_scheduler import LambdaLR

import lightning_clr.trial.asleep
from support.exactness import Case, Witness
from support.models import Scheduled, optimized
from support.scenarios import Scenarios, both, check_bit_identical, check_noticed, each_mutation, keeping, without

SCENARIOS = Scenarios()


@SCENARIOS.add
def one_cycle_from_the_mixin():
    return Case(module=Scheduled)


@SCENARIOS.add
def schedule_and_adam_in_two_groups():
    def two_groups(module):
        groups = [{"params": module.body.parameters(), "lr": 1e-3}, {"params": module.head.parameters()}]
        return module.with_schedule(torch.optim.Adam(groups, lr=0.01))

    return Case(module=optimized(two_groups, Scheduled))


def torch_one_cycle(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@SCENARIOS.add
def torch_one_cycle_scheduler():
    return Case(module=optimized(torch_one_cycle), trainer={"max_epochs": 1})


def written_down(step):
    """The same learning rate at every step, and a line in a file."""
    with open("steps.txt", "a") as file:
        file.write(f"{step}\n")
    return 1.0


def writing(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    return [optimizer], [{"scheduler": LambdaLR(optimizer, written_down), "interval": "step"}]


@SCENARIOS.add
def scheduler_that_writes_a_file():
    return Case(module=optimized(writing))


def plateau(module):
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_acc"}}


@SCENARIOS.add
def reduce_on_plateau():
    return Case(module=optimized(plateau))


class Thaws(BaseFinetuning):
    """Trains the head alone, then adds a group for the body."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.body)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.body, optimizer, initial_denom_lr=10)


def trainable(module):
    weights = filter(lambda weight: weight.requires_grad, module.parameters())
    return module.with_schedule(torch.optim.SGD(weights, lr=0.1, momentum=0.9))


@SCENARIOS.add
def finetuning():
    return Case(module=optimized(trainable, Scheduled), callbacks=lambda: [Thaws()])


@SCENARIOS.add
def checkpoints():
    return Case(
        trainer={"enable_checkpointing": True},
        callbacks=lambda: [ModelCheckpoint("ckpts", every_n_train_steps=3, save_top_k=-1, save_last=True)],
    )


@SCENARIOS.add
def early_stopping():
    return Case(trainer={"max_epochs": 6}, callbacks=lambda: [EarlyStopping("val_acc", patience=1, min_delta=0.5)])


@SCENARIOS.add
def weight_averaging():
    return Case(trainer={"max_epochs": 3}, callbacks=lambda: [StochasticWeightAveraging(0.05, swa_epoch_start=1)])


@SCENARIOS.add
def exponential_moving_average():
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("Lightning has it from 2.6 on")
    return Case(callbacks=lambda: [callbacks.EMAWeightAveraging()])


@SCENARIOS.add
def csv_logger():
    return Case(trainer={"logger": lambda: CSVLogger("."), "log_every_n_steps": 1})


@SCENARIOS.add
def tensorboard_logger():
    return Case(trainer={"logger": lambda: TensorBoardLogger("."), "log_every_n_steps": 1})


@SCENARIOS.in_each_ending
def test_training_is_bit_identical(make, ending, tmp_path, monkeypatch):
    """Weights, batches, losses, random numbers, metrics, states and files equal those of a run without the trial."""
    check_bit_identical(make, ending, tmp_path, monkeypatch)


def awake_callbacks(monkeypatch):
    """All but the one that writes the trace."""
    silence = lightning_clr.trial.asleep._silence

    def silence_witness(callback, hooks):
        if isinstance(callback, Witness):
            silence(callback, hooks)

    monkeypatch.setattr(lightning_clr.trial.asleep, "_silence", silence_witness)


MUTATIONS = {
    "sleeping schedulers": (
        both(keeping("lr_scheduler_configs"), without("trial.asleep._silence_schedulers")),
        scheduler_that_writes_a_file,
    ),
    "callbacks": (awake_callbacks, checkpoints),
    "loggers": (without("trial.asleep._silence_logger"), csv_logger),
}


@each_mutation(MUTATIONS)
def test_every_part_of_the_restoration_is_needed(mutate, make, tmp_path, monkeypatch):
    """With any one part switched off, the comparison above fails: it can tell."""
    check_noticed(mutate, make, tmp_path, monkeypatch)
