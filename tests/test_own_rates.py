"""Optimizers without a number for their learning rate are refused, whoever asks."""

import pytest
import torch

from lightning_clr import CLRMixin, LRRangeTest, OneCycle, ScheduleLR, lr_range_test
from support.data import loader
from support.models import Plain
from support.training import quiet_trainer


class OwnRate(torch.optim.Optimizer):
    """Like Adafactor of transformers: its groups say ``lr=None``."""

    def __init__(self, parameters, defaults):
        super().__init__(parameters, defaults)

    def step(self, closure=None):
        raise AssertionError("must not get here")


RATES = {"None": {"lr": None}, "no key": {"alpha": 1.0}, "a word": {"lr": "auto"}}


class WithOwnRate(Plain):
    def __init__(self, defaults):
        super().__init__()
        self.defaults = defaults

    def configure_optimizers(self):
        return OwnRate(self.parameters(), self.defaults)


class Scheduled(CLRMixin, WithOwnRate):
    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers())


class OneOfTwo(WithOwnRate):
    """Only the second group finds its own."""

    def configure_optimizers(self):
        groups = [{"params": self.body.parameters(), "lr": 0.1}, {"params": self.head.parameters(), **self.defaults}]
        return OwnRate(groups, {})


def callback(module):
    quiet_trainer(max_epochs=1, callbacks=[LRRangeTest()]).fit(module, loader())


def function(module):
    lr_range_test(quiet_trainer(max_epochs=1), module, loader())


def plain(module):
    quiet_trainer(max_epochs=1).fit(module, loader())


def by_itself(module):
    ScheduleLR(module.configure_optimizers(), OneCycle(), 10)


@pytest.mark.parametrize("defaults", RATES.values(), ids=RATES.keys())
@pytest.mark.parametrize(
    ("make", "use"),
    [
        (WithOwnRate, callback),
        (WithOwnRate, function),
        (Scheduled, plain),
        (Scheduled, callback),
        (WithOwnRate, by_itself),
        (OneOfTwo, callback),
    ],
    ids=["callback", "function", "mixin", "mixin and callback", "scheduler", "one group of two"],
)
def test_optimizer_that_finds_its_own_rate_is_refused_with_advice(make, use, defaults):
    """Before the first step; a bare TypeError helps nobody."""
    with pytest.raises(ValueError, match=r"OwnRate.*(lr=None|lr|have none).*(Give it a number|Return an optimizer)"):
        use(make(defaults))
