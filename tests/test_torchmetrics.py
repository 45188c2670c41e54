"""torchmetrics objects as the monitored value, against what they are made of."""

import pytest
import torch
import torchmetrics
from pytorch_lightning import Callback
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC, MulticlassF1Score

from lightning_clr import LRRangeTest, lr_range_test
from support.data import loader
from support.exactness import digest
from support.models import Plain
from support.training import quiet_trainer


def accuracy():
    return MulticlassAccuracy(3, average="micro")


class Scored(Plain):
    """Logs an accuracy, and a collection of metrics with shared states, in the way it is told."""

    def __init__(self, call=True, **how):
        super().__init__()
        self.acc, self.val_acc = accuracy(), accuracy()
        self.both = torchmetrics.MetricCollection({"acc": accuracy(), "f1": MulticlassF1Score(3)}, prefix="both_")
        self.auroc = MulticlassAUROC(3)  # keeps lists
        self.call, self.how = call, how

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        for metric in (self.acc, self.both, self.auroc):
            (metric if self.call else metric.update)(logits, y)
        self.log("acc", self.acc, **self.how)
        self.log("auroc", self.auroc, **self.how)
        self.log_dict(self.both, **self.how)
        EXPECTED.append((logits.argmax(1) == y).float().mean().item())
        return torch.nn.functional.cross_entropy(logits, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_acc(self(x), y)
        self.log("val_acc", self.val_acc)
        VALIDATED.append((self(x).argmax(1) == y).float().sum().item())


EXPECTED, VALIDATED = [], []
"""Accuracies of all batches of a test, out of reach of its undoing."""


@pytest.fixture(autouse=True)
def _forgotten():
    EXPECTED.clear()
    VALIDATED.clear()


def recorded(module, monitor, accumulate=1, **test):
    test = {"num_steps": 20, "max_lr": 1.0, "monitor": monitor, "monitor_mode": "max", **test}
    trainer = quiet_trainer(accumulate_grad_batches=accumulate)
    return lr_range_test(trainer, module, loader(), loader(64), closer_look=False, **test).values


BOTH = {"on_step": True, "on_epoch": True}
PER_EPOCH = {"on_step": False, "on_epoch": True}
LOGGED = [
    (True, {}, "acc"),
    (True, {}, "both_acc"),
    (True, {"on_step": True, "on_epoch": False}, "acc"),
    (True, PER_EPOCH, "acc"),
    (True, PER_EPOCH, "both_acc"),
    (True, BOTH, "acc"),
    (True, BOTH, "acc_step"),
    (True, BOTH, "acc_epoch"),
    (True, BOTH, "both_acc_step"),
    (False, PER_EPOCH, "acc"),
    (False, PER_EPOCH, "both_acc"),
    (False, BOTH, "acc"),
    (False, BOTH, "acc_epoch"),
    (False, BOTH, "both_acc"),
]


@pytest.mark.parametrize(("call", "how", "monitor"), LOGGED)
def test_accuracy_of_every_step_is_recorded(call, how, monitor):
    """However it is logged, and not what has gathered since the epoch began."""
    values = recorded(Scored(call, **how), monitor)

    assert values == pytest.approx(EXPECTED)
    assert len(values) == 20
    assert len(set(values)) > 5


@pytest.mark.parametrize(("call", "how"), [(True, {}), (False, PER_EPOCH)], ids=["called", "updated"])
def test_accumulated_batches_are_averaged(call, how):
    """Two of them to a step."""
    values = recorded(Scored(call, **how), "acc", accumulate=2)

    assert values == pytest.approx([(one + other) / 2 for one, other in zip(*[iter(EXPECTED)] * 2, strict=True)])


def test_validation_accuracy_is_that_of_all_batches():
    """Four batches of sixteen each time; there are as many runs as points."""
    values = recorded(Scored(), "val_acc", val_every_n_steps=2)

    assert values == pytest.approx([sum(VALIDATED[run : run + 4]) / 64 for run in range(0, len(VALIDATED), 4)])
    assert len(values) == 11


@pytest.mark.parametrize("how", [{}, {"on_step": True, "on_epoch": False}], ids=["default", "on_step"])
def test_metric_without_a_value_for_a_step_is_refused(how):
    """As Lightning logs nothing then; the error says what to do."""
    with pytest.raises(ValueError, match=r"got 'acc'.*'acc', 'auroc'.*no value for a step: call it, or log it with"):
        recorded(Scored(False, **how), "acc")


@pytest.mark.parametrize("monitor", ["acc_step", "acc_epoch"])
def test_suffixes_are_there_where_lightning_has_them(monitor):
    """Only what is logged both per step and per epoch has two names."""
    with pytest.raises(ValueError, match=rf"got '{monitor}'. Logged were: \['acc', 'auroc', .*\]\."):
        recorded(Scored(), monitor)


def test_only_the_monitored_metric_is_computed():
    """Others may take long, and all ranks."""

    class Slow(torchmetrics.MeanMetric):
        def compute(self):
            raise AssertionError("computed")

    class WithSlow(Scored):
        def __init__(self):
            super().__init__(call=False, **PER_EPOCH)
            self.slow = Slow()

        def training_step(self, batch, batch_idx):
            self.slow.update(1.0)
            self.log("slow", self.slow, **PER_EPOCH)
            return super().training_step(batch, batch_idx)

    assert recorded(WithSlow(), "acc") == pytest.approx(EXPECTED)


class States(Callback):
    """All that the module's metrics hold when training starts."""

    def on_train_start(self, trainer, pl_module):
        metrics = [module for module in pl_module.modules() if isinstance(module, torchmetrics.Metric)]
        self.seen = [digest({**vars(metric), **metric.metric_state}) for metric in metrics]
        self.shared = pl_module.both["acc"].tp is pl_module.both["f1"].tp


@pytest.mark.parametrize("monitor", ["acc", "both_f1", "auroc", "val_acc"])
@pytest.mark.parametrize("call", [True, False], ids=["called", "updated"])
def test_states_are_as_they_were(monitor, call):
    """Bit for bit, of metrics that have seen something before training."""

    def states(*callbacks):
        torch.manual_seed(0)
        module, states = Scored(call, **PER_EPOCH), States()
        for metric in (module.acc, module.both, module.auroc):
            metric.update(torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0]))
        trainer = quiet_trainer(max_steps=1, callbacks=[*callbacks, states], num_sanity_val_steps=0)
        trainer.fit(module, loader(), loader(64))
        return states

    test = LRRangeTest(num_steps=20, monitor=monitor, monitor_mode="max", val_every_n_steps=2, closer_look=False)
    before, after = states(), states(test)

    assert len(test.result.values) >= 11
    assert after.seen == before.seen
    assert after.shared == before.shared
