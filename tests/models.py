"""Modules and data that the tests share."""

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_clr import CLRMixin


def blobs(n: int = 256, seed: int = 0) -> TensorDataset:
    """Eight features, three classes, learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(1))


def loader(n: int = 256, batch_size: int = 16, **kwargs) -> DataLoader:
    return DataLoader(blobs(n), batch_size, **kwargs)


class Plain(LightningModule):
    """Two layers, SGD with momentum, no schedule."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(8, 16)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x):
        return self.head(torch.relu(self.body(x)))

    def loss(self, batch):
        x, y = batch
        return cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_acc", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Scheduled(CLRMixin, Plain):
    """The same, with a schedule from the mixin."""

    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers())


class Bounded(Plain):
    """Noisy, and never far above the untrained loss, so that a sweep may go on for long."""

    def training_step(self, batch, batch_idx):
        return 2 * torch.tanh(super().training_step(batch, batch_idx) / 2) + 0.3 * torch.randn(())


def quiet_trainer(trainer_class: type = Trainer, **kwargs) -> Trainer:
    """A trainer on the CPU that writes and prints nothing."""
    silent = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return trainer_class(**{**silent, **kwargs})
