"""Range test, bounds and 1cycle on real images, in one call of ``fit``.

Trains a small convolutional network on the 1,797 handwritten digits that ship with scikit-learn: once with the learning
rates that ``LRRangeTest`` finds, once at torch's default learning rate for SGD. Writes ``range_test.png`` and
``schedule.png`` to the current folder.

    python examples/digits.py
"""

import torch
from matplotlib import pyplot as plt
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_clr import CLRMixin, LRRangeTest, OneCycle


class DefaultRate(LightningModule):
    """A small convolutional network with batch normalization, trained at torch's default learning rate."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def training_step(self, batch, batch_idx):
        images, digits = batch
        return nn.functional.cross_entropy(self.network(images), digits)

    def validation_step(self, batch, batch_idx):
        images, digits = batch
        self.accuracy(self.network(images), digits)
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), momentum=0.9)


class OneCycleRate(CLRMixin, DefaultRate):
    """The same network with a 1cycle schedule."""

    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers())


class Record(Callback):
    """Keeps the learning rate and momentum of every step."""

    def __init__(self):
        self.lrs, self.momenta = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        group = trainer.optimizers[0].param_groups[0]
        self.lrs.append(group["lr"])
        self.momenta.append(group.get("momentum"))


def loaders():
    """Four fifths of the digits for training, the rest for validation."""
    images, digits = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    data = TensorDataset(images, torch.tensor(digits))
    train, val = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))
    return DataLoader(train, 32, shuffle=True), DataLoader(val, 512)


def fit(module, max_epochs, *callbacks):
    """Train the module, and return its validation accuracy."""
    trainer = Trainer(
        max_epochs=max_epochs, callbacks=list(callbacks), accelerator="cpu", logger=False, enable_checkpointing=False
    )
    trainer.fit(module, *loaders())
    return trainer.callback_metrics["val_acc"].item()


def draw(test, record):
    """The curve of the range test; the cycle of learning rate and momentum."""
    figure, _ = test.result.plot()
    figure.savefig("range_test.png", dpi=120)

    figure, (upper, lower) = plt.subplots(2, sharex=True, figsize=(7, 4.5), layout="constrained")
    upper.plot(record.lrs, color="black")
    upper.set(ylabel="learning rate", title="1cycle between the bounds of the range test")
    lower.plot(record.momenta, "--", color="black")
    lower.set(ylabel="momentum", xlabel="optimizer step")
    figure.savefig("schedule.png", dpi=120)


def main(max_epochs=8):
    """Train twice, draw, compare."""
    torch.set_num_threads(1)  # the network is too small for more
    seed_everything(0)
    default_accuracy = fit(DefaultRate(), max_epochs)

    seed_everything(0)
    test, record = LRRangeTest(), Record()
    accuracy = fit(OneCycleRate(schedule=OneCycle()), max_epochs, test, record)

    draw(test, record)
    print(test.result.summary())
    print(f"validation accuracy after {max_epochs} epochs")
    print(f"  1cycle between the bounds found:       {accuracy:.1%}")
    print(f"  constant, torch's default lr of 0.001: {default_accuracy:.1%}")


if __name__ == "__main__":
    main()
