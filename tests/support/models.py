"""Modules that learn the data that the tests share, each with one peculiarity."""

import math
from collections.abc import Callable

import torch
from pytorch_lightning import LightningModule
from torch.nn.functional import cross_entropy

from lightning_clr import CLRMixin


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


def optimized(make: Callable[[LightningModule], object], base: type = Plain) -> type[LightningModule]:
    """A module with optimizers of one's own."""
    return type(f"With{base.__name__}", (base,), {"configure_optimizers": make, "__module__": __name__})


class WithLR(Plain):
    """Its learning rate is a hyper-parameter."""

    def __init__(self, lr=0.1):
        super().__init__()
        self.save_hyperparameters()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)


class WithDropout(Plain):
    """Draws random numbers in training."""

    def forward(self, x):
        return self.head(torch.nn.functional.dropout(torch.relu(self.body(x)), 0.3, self.training))


class Flat(Plain):
    """Whatever it does, the loss stays."""

    def loss(self, batch):
        return super().loss(batch) * 0 + 4.0


class Slow(Plain):
    """Learns at learning rates beyond those of the usual sweep."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * 1e-3


class Hot(Plain):
    """NaN as soon as the learning rate exceeds 0.1."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if self.optimizers().param_groups[0]["lr"] > 0.1 else loss


class Noisy(Plain):
    """Its loss is drowned by noise that training does not see."""

    noise = 1.0

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self.noise * torch.randn(())


class Bounded(Plain):
    """Noisy, and never far above the untrained loss, so that a sweep may go on for long."""

    def training_step(self, batch, batch_idx):
        return 2 * torch.tanh(super().training_step(batch, batch_idx) / 2) + 0.3 * torch.randn(())
