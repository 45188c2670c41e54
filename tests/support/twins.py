"""The shared modules, data and callbacks for each of the two Lightning packages."""

import lightning.pytorch as lightning_pytorch
import pytest
import pytorch_lightning
import torch

from lightning_clr import CLRMixin
from support.data import loader
from support.models import Plain, Scheduled
from support.training import LRs


class Twin(lightning_pytorch.LightningModule):
    """The other package's `Plain`."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(8, 16)
        self.head = torch.nn.Linear(16, 3)

    forward = Plain.forward
    loss = Plain.loss
    training_step = Plain.training_step
    validation_step = Plain.validation_step
    configure_optimizers = Plain.configure_optimizers


class ScheduledTwin(CLRMixin, Twin):
    """The other package's `Scheduled`."""

    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers())


class Data(pytorch_lightning.LightningDataModule):
    """Sixteen batches."""

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader(64)


class DataTwin(lightning_pytorch.LightningDataModule):
    """The other package's `Data`."""

    train_dataloader = Data.train_dataloader
    val_dataloader = Data.val_dataloader


class LRsTwin(lightning_pytorch.Callback):
    """The other package's `LRs`."""

    __init__ = LRs.__init__
    seen = LRs.seen
    on_before_optimizer_step = LRs.on_before_optimizer_step


PLAIN = {pytorch_lightning: Plain, lightning_pytorch: Twin}
SCHEDULED = {pytorch_lightning: Scheduled, lightning_pytorch: ScheduledTwin}
RECORDERS = {pytorch_lightning: LRs, lightning_pytorch: LRsTwin}
DATA = {pytorch_lightning: Data, lightning_pytorch: DataTwin}
each_package = pytest.mark.parametrize(
    "package", [pytorch_lightning, lightning_pytorch], ids=["pytorch_lightning", "lightning.pytorch"]
)
