"""A command line as a user writes it, for tests that need processes of their own."""

from lightning_clr import CLRCLI
from support.models import Plain, Scheduled
from support.twins import Data


class Talkative(Scheduled):
    """Prints wherever a user's module might."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        print("made")

    def training_step(self, batch, batch_idx):
        print("step")
        return super().training_step(batch, batch_idx)


class Untold(Plain):
    """Tells at the end how it was trained."""

    def on_train_end(self):
        print(f"trained by {type(self.optimizers().optimizer).__name__} and {type(self.lr_schedulers()).__name__}\n")


if __name__ == "__main__":
    CLRCLI(None, Data)
