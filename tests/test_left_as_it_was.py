"""What a test leaves behind in data modules, lazy modules, callbacks used again, and what it costs in validation."""

import pytest
import torch
from pytorch_lightning import LightningDataModule, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from lightning_clr import LRRangeTest, RangeTestResult, lr_range_test
from lightning_clr.curve import Curve
from lightning_clr.reading import Outcome, Reading
from support.data import blobs, loader
from support.models import Plain, Scheduled
from support.training import quiet_trainer


class Appends(LightningDataModule):
    """Sets up by appending, and by encoding in place."""

    def __init__(self):
        super().__init__()
        self.rows, self.scale, self.prepared = [], torch.ones(8), 0

    def prepare_data(self):
        self.prepared += 1

    def setup(self, stage):
        self.rows += [*blobs(160)]
        self.scale *= 2

    def train_dataloader(self):
        return DataLoader([(x * self.scale, y) for x, y in self.rows], batch_size=16, shuffle=True)


@pytest.mark.parametrize("by_position", [False, True])
def test_data_module_is_set_up_once(by_position):
    """By the `fit` after `lr_range_test`, as if that had not been."""
    data, module = Appends(), Plain()
    where = {"train_dataloaders" if by_position else "datamodule": data}

    lr_range_test(quiet_trainer(max_epochs=1), module, **where, num_steps=20)
    assert (data.rows, data.prepared, data.scale.tolist()) == ([], 0, [1.0] * 8)

    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(module, datamodule=data)
    assert (trainer.global_step, len(data.rows), data.prepared, data.scale.tolist()) == (10, 160, 1, [2.0] * 8)


class Lazy(Plain):
    """Learns its shapes in `setup`."""

    def __init__(self):
        super().__init__()
        self.body, self.norm = nn.LazyLinear(16), nn.LazyBatchNorm1d()

    def setup(self, stage):
        self(torch.zeros(2, 8))

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))))


class LazyInConfigureModel(Lazy):
    def setup(self, stage):
        pass

    def configure_model(self):
        self(torch.zeros(2, 8))


class LazyInTraining(Lazy):
    def setup(self, stage):
        pass


@pytest.mark.parametrize("kind", [Lazy, LazyInConfigureModel, LazyInTraining])
def test_lazy_module_is_lazy_again_after_the_function(kind):
    """Training afterwards is bit for bit what it would have been."""

    def trained(test_first):
        seed_everything(1)
        module = kind()
        if test_first:
            result = lr_range_test(quiet_trainer(max_epochs=1), module, loader(), num_steps=20)
            assert len(result.lrs) >= 10
            assert type(module.body) is nn.LazyLinear
            assert nn.parameter.is_lazy(module.norm.running_mean)
        quiet_trainer(max_epochs=1).fit(module, loader())
        return module.state_dict()

    torch.testing.assert_close(trained(True), trained(False), rtol=0, atol=0)


@pytest.mark.parametrize("skips", ["fast_dev_run", "resumes"])
def test_result_of_another_model_is_forgotten(skips):
    """It would be told as this model's, and its bounds as those in force."""
    untested = Scheduled()
    trainer = quiet_trainer(max_epochs=1)
    trainer.fit(untested, loader())
    trainer.save_checkpoint("untested.ckpt")
    test = LRRangeTest(num_steps=20, closer_look=False)
    quiet_trainer(max_epochs=1, callbacks=[test]).fit(first := Scheduled(), loader())
    assert test.result is not None

    second = Scheduled()
    if skips == "resumes":
        quiet_trainer(max_epochs=1, callbacks=[test]).fit(second, loader(), ckpt_path="untested.ckpt")
    else:
        quiet_trainer(fast_dev_run=True, callbacks=[test]).fit(second, loader())

    assert test.result is None
    assert second.lr_bounds is None
    assert first.lr_bounds is not None


def test_result_stays_while_the_same_model_trains_on():
    """On the same trainer, which does not test again."""
    test, module = LRRangeTest(num_steps=20, closer_look=False), Scheduled()
    trainer = quiet_trainer(max_epochs=1, callbacks=[test])
    trainer.fit(module, loader())
    found = test.result

    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())

    assert test.result is found


def test_validation_runs_once_for_each_point():
    """And at the end of what verifies them; the first run, which tells whether the metric is logged, is a point."""

    class Counts(Plain):
        runs = 0

        def on_validation_start(self):
            Counts.runs += 1

    trainer = quiet_trainer(max_epochs=1)

    result = lr_range_test(trainer, Counts(), loader(), loader(32), num_steps=51, monitor="val_acc", monitor_mode="max")

    assert Counts.runs == len(result.lrs) + len(result.runs)
    assert len(result.lrs) >= 10


def test_summary_without_points_has_no_parenthesis():
    """There is nothing to count."""
    result = RangeTestResult.of([Curve([], [])], Reading(None, Outcome.TOO_FEW_POINTS, "nothing was recorded"))

    assert result.summary() == "LR range test: no bounds, since nothing was recorded"
