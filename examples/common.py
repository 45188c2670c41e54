"""What the examples share: the look of their pictures, images, networks, and training.

``digits.py`` stands alone, and uses none of this.
"""

import json
import pickle
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from pytorch_lightning import Callback, LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchmetrics.classification import MulticlassAccuracy

from lightning_clr import CLRMixin, LRBounds, Schedule

# Pictures: an opaque light ground, and lines that differ without colour

DARK, BLUE, RED, GOLD = "black", "#0b62a4", "#b3261e", "#8f5f00"

LOOK = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.facecolor": "white",
    "svg.hashsalt": "lightning-clr",  # the same picture is the same file
}


def panels(rows=1, columns=1, width=9.0, height=4.0, **kwargs):
    """A figure and its axes."""
    plt.rcParams.update(LOOK)
    return plt.subplots(rows, columns, figsize=(width, height), **kwargs)


def save(figure, name):
    """Write ``<name>.svg`` to the current folder."""
    figure.savefig(f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


# Numbers: kept beside the pictures that are drawn of them


def record(name, made, numbers):
    """Write ``<name>.json`` to the current folder, with how it was made and five digits of each number."""

    def short(value):
        if isinstance(value, dict):
            return {key: short(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [short(one) for one in value]
        return float(f"{value:.5g}") if isinstance(value, float) else value

    Path(f"{name}.json").write_text(json.dumps({"made": made} | short(numbers)) + "\n")


def read_record(path):
    """The numbers of a record."""
    numbers = json.loads(Path(path).read_text())
    del numbers["made"]
    return numbers


# Images: a part for training and a part for testing


def digits(number=None):
    """1,438 handwritten digits for training, or ``number`` of them, and 359 for testing.

    Images are ``[n, 1, 8, 8]`` between 0 and 1. They come with scikit-learn.
    """
    images, classes = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    data = TensorDataset(images, torch.tensor(classes))
    train, test = random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))
    return TensorDataset(*train[:number]), TensorDataset(*test[:])


def cifar10(folder, train=None, test=None):
    """50,000 images for training and 10,000 for testing, or the first ``train`` and ``test`` of them.

    Images are ``[n, 3, 32, 32]`` between 0 and 1, read from the pickles that
    https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz unpacks to. No checksum is asked for.

    Raises:
        SystemExit: If they are not in ``folder``.
    """
    pickles = Path(folder) / "cifar-10-batches-py"
    if not pickles.is_dir():
        raise SystemExit(
            f"CIFAR-10 is not in {str(folder)!r}. Unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz there,"
            f" so that there is {pickles}."
        )

    def part(number, *names):
        read = [pickle.loads((pickles / name).read_bytes(), encoding="bytes") for name in names]
        images = torch.cat([torch.as_tensor(one[b"data"]) for one in read])[:number]
        classes = torch.tensor([label for one in read for label in one[b"labels"]])[:number]
        return TensorDataset(images.reshape(-1, 3, 32, 32) / 255, classes)

    return part(train, *(f"data_batch_{number}" for number in range(1, 6))), part(test, "test_batch")


class Whole(TensorDataset):
    """Hands out a batch by one look-up, on the device where the data lie."""

    def __getitems__(self, indices):
        return self[indices]


def batches(data, batch_size, drop_last=True, device="cpu"):
    """Loaders for training and for validation, of data that fit on the device."""
    train, test = (Whole(*(tensor.to(device) for tensor in part.tensors)) for part in data)
    return (
        DataLoader(train, batch_size, shuffle=True, drop_last=drop_last, collate_fn=list),
        DataLoader(test, 1000, collate_fn=list),
    )


# Networks: from images to ten logits


def digits_network():
    """That of ``digits.py`` without batch normalization."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Block(nn.Module):
    """Two convolutions beside a shortcut. Where it halves the sides, zeros double the channels."""

    def __init__(self, channels, halve, norm_momentum):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 2 if halve else 1, 1), nn.BatchNorm2d(channels, momentum=norm_momentum),
            nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels, momentum=norm_momentum),
        )  # fmt: skip
        self.shortcut = nn.AvgPool2d(3, 2, 1) if halve else nn.Identity()
        self.halve = halve

    def forward(self, images):
        features = torch.relu(self.residual(images) + self.shortcut(images))
        return torch.cat([features, torch.zeros_like(features)], 1) if self.halve else features


def residual_network(channels=3, blocks=9, stages=3, norm_momentum=0.05):
    """Smith's ResNet: 9 blocks a stage are ResNet-56, 3 are ResNet-20."""
    layers = [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=norm_momentum), nn.ReLU()]
    width = 16
    for stage in range(stages):
        if stage:
            layers.append(Block(width, True, norm_momentum))
            width *= 2
        layers += [Block(width, False, norm_momentum) for _ in range(blocks - bool(stage))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


# Training


class Classifier(CLRMixin, LightningModule):
    """Any network that tells ten classes apart.

    Args:
        network: From images to ten logits.
        **kwargs: The schedule and the bounds, and arguments of SGD.
    """

    def __init__(self, network, schedule=None, lr_bounds=None, **sgd):
        super().__init__(schedule=schedule, lr_bounds=lr_bounds)
        self.network = network
        self.accuracy = MulticlassAccuracy(10, average="micro")
        self.sgd = {"momentum": 0.9} | sgd

    def training_step(self, batch, batch_idx):
        images, classes = batch
        return nn.functional.cross_entropy(self.network(images), classes)

    def validation_step(self, batch, batch_idx):
        images, classes = batch
        logits = self.network(images)
        self.accuracy(logits, classes)
        self.log("val_acc", self.accuracy)
        self.log("val_loss", nn.functional.cross_entropy(logits, classes), sync_dist=True)

    def configure_optimizers(self):
        return self.with_schedule(torch.optim.SGD(self.parameters(), **self.sgd))


class DigitsClassifier(Classifier):
    """A small convolutional network that reads digits."""

    def __init__(self, schedule: Schedule | None = None, lr_bounds: LRBounds | None = None):
        super().__init__(digits_network(), schedule, lr_bounds)


class Mirrored(Classifier):
    """Half of the images, from left to right."""

    def training_step(self, batch, batch_idx):
        images, classes = batch
        mirror = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return super().training_step((torch.where(mirror, images.flip(3), images), classes), batch_idx)


class Piecewise(Schedule):
    """``max_lr``, a tenth of it after 5/8 of training, a hundredth after 7/8."""

    def lr(self, step, total_steps, bounds):
        """The usual schedule of residual networks."""
        return bounds.max_lr / 10 ** ((8 * step >= 5 * total_steps) + (8 * step >= 7 * total_steps))


class History(Callback):
    """The learning rate and momentum of every step; validation accuracy, in per cent, after how many steps."""

    def __init__(self):
        self.lrs, self.momenta, self.steps, self.accuracies = [], [], [], []

    def numbers(self):
        """All of them, for a record."""
        return {name: getattr(self, name) for name in ("lrs", "momenta", "steps", "accuracies")}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        group = trainer.optimizers[0].param_groups[0]
        self.lrs.append(group["lr"])
        self.momenta.append(group.get("momentum"))

    def on_validation_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)
        self.accuracies.append(100 * trainer.callback_metrics["val_acc"].item())


def quiet_trainer(max_steps, *callbacks, **kwargs):
    """A Trainer that prints and writes nothing."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    kwargs = {"accelerator": "cpu", "max_epochs": -1, "num_sanity_val_steps": 0} | quiet | kwargs
    return Trainer(max_steps=max_steps, callbacks=list(callbacks), **kwargs)


def train(module, data, max_steps, batch_size, validations, **kwargs):
    """Fit, and return the history."""
    history = History()
    every = max(1, max_steps // validations)
    kwargs |= {"val_check_interval": every, "check_val_every_n_epoch": None}
    trainer = quiet_trainer(max_steps, history, **kwargs)
    trainer.fit(module, *batches(data, batch_size, device=trainer.strategy.root_device))
    return history
