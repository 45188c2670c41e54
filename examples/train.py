"""A training command: everything is chosen by flags or in a configuration file.

Trains the network of ``digits.py``; curves, learning rates and checkpoints are in the current folder, under ``logs``.

    python examples/train.py fit --config examples/train.yaml
    python examples/train.py range_test --config examples/train.yaml
    python examples/train.py fit --config examples/train.yaml --trainer.devices 2
    python examples/train.py fit --config examples/train.yaml --ckpt_path logs/digits/version_0/checkpoints/last.ckpt
"""

from common import DigitsClassifier, batches, digits
from pytorch_lightning import LightningDataModule

from lightning_clr import CLRCLI


class Digits(LightningDataModule):
    """Handwritten digits, eight pixels square.

    Args:
        batch_size: Images per step.
    """

    def __init__(self, batch_size: int = 32):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return batches(digits(), self.batch_size, drop_last=False)[0]

    def val_dataloader(self):
        return batches(digits(), self.batch_size)[1]


if __name__ == "__main__":
    CLRCLI(DigitsClassifier, Digits)
