"""Short runs in real trainings: what they see, by which schedule, and that they work wherever sweeps do."""

import pytest
import torch
from pytorch_lightning.plugins import MixedPrecision

from lightning_clr import CLRMixin, Cyclic, LRRangeTest, OneCycle, lr_range_test
from lightning_clr.plan import ShortRunPlan, SweepPlan
from lightning_clr.reading import read
from support.data import loader
from support.models import Plain, Scheduled, WithDropout
from support.training import quiet_trainer

LENGTH = 12


SEEN = []
"""What each training step was given; the module's own attributes are put back."""


class Seen(Scheduled):
    """Writes down what its training steps are given."""

    def __init__(self, schedule=None):
        super().__init__()
        self.schedule = schedule or OneCycle()

    def training_step(self, batch, batch_idx):
        group = self.optimizers().param_groups[0]
        SEEN.append((group["lr"], group["momentum"], batch[0].sum().item()))
        return super().training_step(batch, batch_idx)


def one_of_each(max_lr=0.2):
    """A search that makes a sweep, and short runs of a dozen steps."""

    def search(settings):
        curve = yield SweepPlan.first(settings)
        search.untrained = yield ShortRunPlan(0.0, LENGTH, 4)
        search.run = yield ShortRunPlan(max_lr, LENGTH, 4)
        search.held = yield ShortRunPlan(max_lr, LENGTH, 4, falls=False)
        return read([curve])

    return search


def run_test(module, data=None, val=None, **trainer):
    """The module's steps, by what was done: sweep, untrained, short run, held."""
    search = one_of_each()
    SEEN.clear()
    accumulated = trainer.get("accumulate_grad_batches", 1)
    lr_range_test(quiet_trainer(**trainer), module, data or loader(shuffle=True), val, num_steps=20, search=search)
    sweep = 20 * accumulated
    ends = [sweep, sweep + 4 * accumulated, sweep + (4 + LENGTH) * accumulated]
    parts = [SEEN[start:end] for start, end in zip([0, *ends], [*ends, None], strict=True)]
    return search, parts


@pytest.mark.parametrize("accumulated", [1, 3])
def test_all_see_the_same_batches(accumulated):
    """Also over the ends of epochs; the untrained network those of the last steps."""
    _, parts = run_test(Seen(), loader(6 * 16, shuffle=True), accumulate_grad_batches=accumulated)
    sweep, untrained, run, held = ([batch for _, _, batch in part] for part in parts)

    assert len(run) == LENGTH * accumulated
    assert run == held == sweep[: len(run)]
    assert untrained == run[-4 * accumulated :]


def test_short_run_follows_the_schedule_of_training():
    schedule = OneCycle(pct_start=0.5, anneal="linear", div_factor=10)
    _, (_, untrained, run, held) = run_test(Seen(schedule=schedule))
    bounds = schedule.bounds_below(0.2)

    assert {lr for lr, _, _ in untrained} == {0.0}
    assert [lr for lr, _, _ in run] == [schedule.lr(step, LENGTH, bounds) for step in range(LENGTH)]
    assert [momentum for _, momentum, _ in run] == [schedule.momentum(step, LENGTH) for step in range(LENGTH)]
    assert [lr for lr, _, _ in held[2:]] == [0.2] * (LENGTH - 2)


def test_other_schedules_are_tested_by_one_cycle_at_their_momentum():
    _, (_, _, run, _) = run_test(Seen(schedule=Cyclic(base_momentum=0.7, max_momentum=0.8)))

    assert max(lr for lr, _, _ in run) == pytest.approx(0.2, rel=0.1)
    assert run[-1][0] < 0.001
    assert min(momentum for _, momentum, _ in run) == pytest.approx(0.7, abs=0.01)


@pytest.mark.filterwarnings("ignore:Bare has the CLRMixin, but no schedule")
def test_optimizer_without_a_schedule_keeps_its_momentum():
    class Bare(Seen):
        configure_optimizers = Plain.configure_optimizers

    _, (_, _, run, _) = run_test(Bare())

    assert {momentum for _, momentum, _ in run} == {0.9}


def test_untrained_losses_are_those_of_the_first_weights():
    """Exactly: nothing is learned at a learning rate of zero."""
    module = Seen()
    expected = [module.loss(batch).item() for batch in [*loader()][LENGTH - 4 : LENGTH]]
    search, _ = run_test(module, loader())

    assert search.untrained.values == pytest.approx(expected)
    assert search.untrained.max_lr == 0


def manual(self, batch, batch_idx):
    optimizer = self.optimizers()
    loss = self.loss(batch)
    optimizer.zero_grad()
    self.manual_backward(loss)
    optimizer.step()
    self.log("train_loss", loss)
    return loss


class Manual(Scheduled):
    training_step = manual

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Accuracy(Plain):
    def training_step(self, batch, batch_idx):
        self.log("acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())
        return super().training_step(batch, batch_idx)


def scaled():
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**14))


@pytest.mark.parametrize(
    ("module", "trainer", "arguments"),
    [
        (Scheduled, {}, {}),
        (WithDropout, {"accumulate_grad_batches": 2}, {}),
        (Scheduled, {"precision": "bf16-mixed"}, {}),
        (Manual, {}, {}),
        pytest.param(Plain, {}, {"monitor": "train_loss"}, marks=pytest.mark.exhaustive),
        pytest.param(Accuracy, {}, {"monitor": "acc", "monitor_mode": "max"}, marks=pytest.mark.exhaustive),
        (Plain, {}, {"monitor": "val_acc", "monitor_mode": "max"}),
        pytest.param(Scheduled, {"gradient_clip_val": 0.1}, {}, marks=pytest.mark.exhaustive),
    ],
    ids=["plain", "accumulated", "bf16", "manual", "logged", "maximised", "validated", "clipped"],
)
def test_default_test_makes_short_runs_wherever_it_sweeps(module, trainer, arguments):
    """And trains well between the bounds they find."""
    torch.manual_seed(3)
    test, model = LRRangeTest(**arguments), module()
    fitted = quiet_trainer(max_steps=240, callbacks=[test], **trainer)
    fitted.fit(model, loader(480, shuffle=True), loader(64))

    runs = [run for run in test.result.runs if run.max_lr]
    assert len(runs) >= 3
    assert len(test.result.curves) == 1
    assert all(len(run.values) == (1 if arguments.get("monitor") == "val_acc" else 8) for run in runs if run.is_through)
    assert test.result.bounds is not None
    assert float(fitted.validate(model, loader(64), verbose=False)[0]["val_acc"]) > 0.75
    assert fitted.global_step == 240


def test_short_runs_of_scaled_half_precision():
    trainer = quiet_trainer(max_steps=240, plugins=scaled())
    result = lr_range_test(trainer, Scheduled(), loader(480, shuffle=True))

    assert len(result.runs) >= 4
    assert result.bounds is not None


def test_error_of_the_model_in_a_short_run_is_its_end():
    """As in a sweep: that learning rate fails, and training goes on."""

    class Refuses(Seen):
        def training_step(self, batch, batch_idx):
            if len(SEEN) > 24 and self.optimizers().param_groups[0]["lr"] > 0.1:
                raise ValueError("too high")
            return super().training_step(batch, batch_idx)

    search, _ = run_test(Refuses())

    assert not search.run.is_through
    assert not search.held.is_through


def test_length_of_training_is_what_the_schedule_was_told():
    """Manual optimization may step less often than Lightning counts; torch's schedulers may count epochs."""

    class Told(Plain):
        def configure_optimizers(self):
            return CLRMixin.with_schedule(self, super().configure_optimizers(), total_steps=400)

        schedule, lr_bounds = OneCycle(), None

    class PerEpoch(Plain):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)]

    def run_steps(module):
        result = lr_range_test(quiet_trainer(max_steps=240), module, loader(480))
        return {run.num_steps for run in result.runs}

    assert run_steps(Told()) == {50}
    assert run_steps(PerEpoch()) == {30}


def test_result_tells_of_short_runs():
    test = LRRangeTest()
    quiet_trainer(max_steps=240, callbacks=[test]).fit(Scheduled(), loader(480))
    result = test.result
    again = type(result).from_state_dict(result.state_dict())

    assert again == result
    assert f" + {len([run for run in result.runs if run.max_lr])} x 30 steps" in result.summary()
    assert result.runs[0].max_lr == 0
