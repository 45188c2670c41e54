"""Images, networks and training that several examples share.

``digits()`` needs nothing that scikit-learn does not bring. ``cifar10(folder)`` needs torchvision and the data set.
"""

import torch
from digits import Record, loaders
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_clr import CLRMixin


def digits(number=None):
    """1,438 handwritten digits for training, or ``number`` of them, and 359 for testing.

    Images are ``[n, 1, 8, 8]`` between 0 and 1.
    """
    train, test = (loader.dataset for loader in loaders())
    return TensorDataset(*train[:number]), TensorDataset(*test[:])


def cifar10(folder):
    """50,000 images for training and 10,000 for testing, ``[n, 3, 32, 32]`` between 0 and 1.

    Raises:
        SystemExit: If torchvision is missing, or if the images are not in ``folder``.
    """
    try:
        from torchvision.datasets import CIFAR10
    except ModuleNotFoundError:
        raise SystemExit("CIFAR-10 is read by torchvision: pip install torchvision") from None
    try:
        parts = [CIFAR10(folder, train=train) for train in (True, False)]
    except RuntimeError:
        raise SystemExit(
            f"CIFAR-10 is not in {folder!r}. Unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz there, so"
            f" that there is {folder}/cifar-10-batches-py."
        ) from None
    return tuple(
        TensorDataset(torch.tensor(part.data).permute(0, 3, 1, 2) / 255, torch.tensor(part.targets)) for part in parts
    )


def synthetic(number=128, shape=(3, 32, 32)):
    """Noise with random labels, to see that something runs."""
    draw = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.rand(number, *shape, generator=draw), torch.randint(0, 10, (number,), generator=draw))
    return data, data


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
        self.sgd = {"lr": 0.1, "momentum": 0.9} | sgd

    def training_step(self, batch, batch_idx):
        images, classes = batch
        return nn.functional.cross_entropy(self.network(images), classes)

    def validation_step(self, batch, batch_idx):
        images, classes = batch
        logits = self.network(images)
        self.accuracy(logits, classes)
        self.log("val_acc", self.accuracy)
        self.log("val_loss", nn.functional.cross_entropy(logits, classes))

    def configure_optimizers(self):
        return self.with_schedule(torch.optim.SGD(self.parameters(), **self.sgd))


class History(Callback):
    """Validation accuracy, in per cent, after how many steps."""

    def __init__(self):
        self.steps, self.accuracies = [], []

    def on_validation_end(self, trainer, pl_module):
        self.steps.append(trainer.global_step)
        self.accuracies.append(100 * trainer.callback_metrics["val_acc"].item())


def batches(data, batch_size):
    """Loaders for training and for validation."""
    train, test = data
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(test, 1000)


def quiet_trainer(max_steps, *callbacks, **kwargs):
    """A Trainer that prints and writes nothing."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    kwargs = {"accelerator": "cpu", "max_epochs": -1, "num_sanity_val_steps": 0} | quiet | kwargs
    return Trainer(max_steps=max_steps, callbacks=list(callbacks), **kwargs)


def train(module, data, max_steps, batch_size, validations, *callbacks, **kwargs):
    """Fit, and return the accuracies and the record of learning rates and momenta."""
    history, record = History(), Record()
    every = max(1, max_steps // validations)
    kwargs |= {"val_check_interval": every, "check_val_every_n_epoch": None}
    quiet_trainer(max_steps, history, record, *callbacks, **kwargs).fit(module, *batches(data, batch_size))
    return history, record
