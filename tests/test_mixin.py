import math

import pytest
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, Timer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from lightning_clr import CLRMixin, Cyclic, LRBounds, OneCycle
from support.data import Stream, blobs, loader
from support.models import Plain, Scheduled
from support.training import LRs, quiet_trainer, trained


def stream_loader():
    """Samples without a known number."""
    return DataLoader(Stream(blobs(96)), batch_size=16)


TOTAL_STEPS = {
    "epochs": ({"max_epochs": 2}, 32),
    "max_steps": ({"max_steps": 10}, 10),
    "max_steps before max_epochs": ({"max_epochs": 2, "max_steps": 10}, 10),
    "max_epochs before max_steps": ({"max_epochs": 2, "max_steps": 100}, 32),
    "accumulation": ({"max_epochs": 2, "accumulate_grad_batches": 4}, 8),
    "accumulation with a rest": ({"max_epochs": 2, "accumulate_grad_batches": 3}, 12),
    "accumulation and max_steps": ({"max_epochs": 2, "accumulate_grad_batches": 3, "max_steps": 7}, 7),
    "some batches": ({"max_epochs": 2, "limit_train_batches": 5}, 10),
    "some batches, accumulated": ({"max_epochs": 2, "limit_train_batches": 5, "accumulate_grad_batches": 2}, 6),
    "half of the batches": ({"max_epochs": 2, "limit_train_batches": 0.5}, 16),
    "time beyond epochs": ({"max_epochs": 2, "max_time": "00:01:00:00"}, 32),
}
CHANGING_ACCUMULATION = {
    "4, then 2": ({0: 4, 1: 2}, {"max_epochs": 2}, 4 + 8),
    "5, then 3, each with a rest": ({0: 5, 1: 3}, {"max_epochs": 3}, 4 + 6 + 6),
    "1, then 4": ({2: 4}, {"max_epochs": 3}, 16 + 16 + 4),
    "4, then 2, until max_steps": ({0: 4, 1: 2}, {"max_epochs": 2, "max_steps": 6}, 6),
    "4, then 2, before max_steps": ({0: 4, 1: 2}, {"max_epochs": 2, "max_steps": 20}, 12),
    "4, then 2, only max_steps": ({0: 4, 1: 2}, {"max_steps": 14}, 14),
    "4, then 2, of five batches": ({0: 4, 1: 2}, {"max_epochs": 2, "limit_train_batches": 5}, 2 + 3),
}


@pytest.mark.parametrize(("arguments", "total_steps"), TOTAL_STEPS.values(), ids=TOTAL_STEPS.keys())
def test_total_steps_are_the_optimizer_steps_that_happen(arguments, total_steps):
    """Sixteen batches an epoch; the plan is what training then does."""
    module = Scheduled()

    steps = len(trained(module, **arguments).seen)

    assert module.lr_schedulers().total_steps == steps == total_steps


@pytest.mark.parametrize(
    ("scheduling", "arguments", "total_steps"), CHANGING_ACCUMULATION.values(), ids=CHANGING_ACCUMULATION.keys()
)
def test_total_steps_follow_a_changing_accumulation(scheduling, arguments, total_steps):
    """Each epoch counts with its own accumulation, which Lightning's own estimate leaves out."""
    module = Scheduled()

    steps = len(trained(module, callbacks=[GradientAccumulationScheduler(scheduling)], **arguments).seen)

    assert module.lr_schedulers().total_steps == steps == total_steps


@pytest.mark.parametrize("accumulated", [1, 3])
def test_schedule_advances_at_every_optimizer_step(accumulated):
    """The rates are torch's 1cycle, step by step; accumulated batches in between do not count."""
    reference = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    one_cycle = OneCycleLR(reference, max_lr=0.1, total_steps=2 * math.ceil(16 / accumulated))
    expected = [one_cycle.get_last_lr()[0]]

    lrs = trained(Scheduled(), max_epochs=2, accumulate_grad_batches=accumulated).seen
    for _ in lrs[1:]:
        reference.step()
        one_cycle.step()
        expected += one_cycle.get_last_lr()

    assert lrs == pytest.approx(expected, rel=1e-12)


def test_schedule_is_stepped_per_step():
    """What `configure_optimizers` returns is what Lightning's documentation asks for."""
    module = Scheduled(schedule=Cyclic(step_size=5))

    config = module.configure_optimizers()

    assert config["lr_scheduler"]["interval"] == "step"
    assert config["lr_scheduler"]["scheduler"].optimizer is config["optimizer"]


ENDLESS = {
    "max_epochs=-1": ({"max_epochs": -1}, loader),
    "only max_time": ({"max_time": "00:01:00:00"}, loader),
    "only a Timer": ({"max_epochs": -1, "callbacks": [Timer("00:01:00:00")]}, loader),
    "stream": ({"max_epochs": 2}, stream_loader),
    "stream, max_epochs=-1": ({"max_epochs": -1}, stream_loader),
}


@pytest.mark.parametrize(("arguments", "data"), ENDLESS.values(), ids=ENDLESS.keys())
@pytest.mark.parametrize("schedule", [OneCycle(), Cyclic(cycles=2)], ids=["OneCycle", "Cyclic in whole cycles"])
def test_training_without_a_known_end_is_refused(schedule, arguments, data):
    """Before the first step, while the optimizers are configured."""
    module = Scheduled(schedule=schedule)

    with pytest.raises(ValueError, match="needs to know how long training lasts, but the Trainer has no end"):
        trained(module, data(), **arguments)


def test_message_about_an_unknown_end_names_what_was_given():
    """Expected, got, and what to do."""
    expected = (
        r"has no end that is known beforehand \(max_epochs=2, max_steps=-1, training batches per epoch: inf\)\. "
        r"Set `max_steps`, .* `limit_train_batches`, .* `with_schedule\(optimizer, total_steps=…\)`, .* `Cyclic\("
    )

    with pytest.raises(ValueError, match=expected):
        trained(Scheduled(), stream_loader(), max_epochs=2)


@pytest.mark.parametrize(("arguments", "data"), ENDLESS.values(), ids=ENDLESS.keys())
def test_cyclic_with_a_step_size_needs_no_end(arguments, data):
    """Up in two steps and down in two, for as long as it takes."""
    lrs = LRs(stop_after=7)
    callbacks = [*arguments.get("callbacks", []), lrs]

    trainer = quiet_trainer(**{**arguments, "callbacks": callbacks})
    trainer.fit(Scheduled(schedule=Cyclic(step_size=2), lr_bounds=LRBounds(0.1, 0.3)), data())

    assert lrs.seen[:7] == pytest.approx([0.1, 0.2, 0.3, 0.2, 0.1, 0.2, 0.3])


KNOWN_END_OF_A_STREAM = {
    "max_steps": ({"max_steps": 6}, 6),
    "limit_train_batches": ({"max_epochs": 2, "limit_train_batches": 3}, 6),
    "max_steps and accumulation": ({"max_steps": 4, "accumulate_grad_batches": 2}, 4),
}


@pytest.mark.parametrize(("arguments", "total_steps"), KNOWN_END_OF_A_STREAM.values(), ids=KNOWN_END_OF_A_STREAM.keys())
def test_stream_with_a_known_end_has_a_total(arguments, total_steps):
    """Data without a length, of a training that has one."""
    module = Scheduled()

    steps = len(trained(module, stream_loader(), **arguments).seen)

    assert module.lr_schedulers().total_steps == steps == total_steps


class ExplicitTotal(CLRMixin, Plain):
    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers(), total_steps=8)


@pytest.mark.filterwarnings("ignore:.* was planned for 8 optimizer steps, but training makes more")
@pytest.mark.parametrize(("arguments", "data"), ENDLESS.values(), ids=ENDLESS.keys())
def test_explicit_total_steps_need_no_end(arguments, data):
    """After the total the last value is held."""
    lrs = LRs(stop_after=10)
    module = ExplicitTotal(schedule=OneCycle(pct_start=0.25, anneal="linear", div_factor=2, final_div_factor=5))
    callbacks = [*arguments.get("callbacks", []), lrs]

    quiet_trainer(**{**arguments, "callbacks": callbacks}).fit(module, data())

    assert lrs.seen[0] == pytest.approx(0.05)
    assert max(lrs.seen) == lrs.seen[1] == pytest.approx(0.1)
    assert lrs.seen[7:10] == pytest.approx([0.01, 0.01, 0.01])


class TwoOptimizers(CLRMixin, Plain):
    """Manual optimization; the second optimizer is ten times slower."""

    automatic_optimization = False

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.seen = []

    def training_step(self, batch, batch_idx):
        optimizers, schedulers = self.optimizers(), self.lr_schedulers()
        self.seen.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        self.manual_backward(self.loss(batch))
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()

    def configure_optimizers(self):
        body = torch.optim.SGD(self.body.parameters(), lr=1.0)
        head = torch.optim.SGD(self.head.parameters(), lr=0.1)
        return self.with_schedule([body, head])


def test_several_optimizers_keep_their_ratio_under_manual_optimization():
    """Both go up and down together over the sixteen batches of one epoch, in two cycles."""
    module = TwoOptimizers(schedule=Cyclic(cycles=1, div_factor=4.0))

    quiet_trainer(max_epochs=1, limit_train_batches=9).fit(module, loader())

    body, head = zip(*module.seen, strict=True)
    assert body == pytest.approx([0.25, 0.4375, 0.625, 0.8125, 1.0, 0.8125, 0.625, 0.4375, 0.25])
    assert head == pytest.approx([lr / 10 for lr in body])


def test_several_optimizers_share_the_bounds_in_their_ratio():
    """Explicit bounds are those of the optimizer with the largest learning rate."""
    module = TwoOptimizers(schedule=Cyclic(step_size=2), lr_bounds=LRBounds(0.2, 0.6))

    quiet_trainer(max_epochs=1, limit_train_batches=3).fit(module, loader())

    assert module.seen == [pytest.approx(lrs) for lrs in ([0.2, 0.02], [0.4, 0.04], [0.6, 0.06])]


class TwoGroups(CLRMixin, Plain):
    def configure_optimizers(self):
        groups = [{"params": self.body.parameters(), "lr": 0.01}, {"params": self.head.parameters()}]
        return self.with_schedule(torch.optim.SGD(groups, lr=0.1, momentum=0.9))


@pytest.mark.parametrize(
    ("lr_bounds", "first"),
    [(None, [0.0025, 0.025]), (LRBounds(0.2, 0.6), [0.02, 0.2])],
    ids=["from the optimizer", "explicit"],
)
def test_groups_keep_their_ratio_at_every_step(lr_bounds, first):
    """Explicit bounds win over the optimizer's learning rate, and are those of the larger group."""
    module = TwoGroups(schedule=Cyclic(step_size=3), lr_bounds=lr_bounds)
    lrs = []
    module.on_before_optimizer_step = lambda optimizer: lrs.append([g["lr"] for g in optimizer.param_groups])

    quiet_trainer(max_epochs=1).fit(module, loader())

    assert lrs[0] == pytest.approx(first)
    assert [body / head for body, head in lrs] == pytest.approx([0.1] * 16)


class OverflowsOnce(Scheduled):
    """The gradient of the fourth step is infinite, as happens in half precision."""

    def on_after_backward(self):
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == 3:
            self.head.weight.grad.fill_(math.inf)


def half_precision():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0, growth_interval=1000)
    return MixedPrecision("16-mixed", "cpu", scaler)


def test_step_that_mixed_precision_skips_does_not_advance_the_schedule():
    """The optimizer has not moved, so the same learning rate comes again."""
    module = OverflowsOnce(schedule=Cyclic(step_size=4), lr_bounds=LRBounds(0.1, 0.5))

    lrs = trained(module, max_epochs=1, limit_train_batches=7, plugins=[half_precision()]).seen

    assert lrs == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.5, 0.4])
    assert module.lr_schedulers().last_epoch == 6


def test_skipped_batches_of_an_accumulation_do_not_advance_the_schedule():
    """With two batches a step, an overflow in the fourth batch skips the second step."""
    module = OverflowsOnce(schedule=Cyclic(step_size=4), lr_bounds=LRBounds(0.1, 0.5))

    arguments = {"limit_train_batches": 8, "accumulate_grad_batches": 2}
    lrs = trained(module, max_epochs=1, plugins=[half_precision()], **arguments).seen

    assert lrs == pytest.approx([0.1, 0.2, 0.2, 0.3])


def test_schedule_starts_afresh_in_every_fit():
    """A second `fit` of the same module configures new optimizers, from the module's learning rate."""
    module = Scheduled(schedule=Cyclic(step_size=2), lr_bounds=LRBounds(0.1, 0.3))

    first, second = (trained(module, max_epochs=1, limit_train_batches=4).seen for _ in range(2))

    assert first == second == pytest.approx([0.1, 0.2, 0.3, 0.2])


def test_other_schedulers_step_as_lightning_would():
    """The mixin leaves a scheduler that is not its own alone."""

    class StepsAnyway(CLRMixin, Plain):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    lrs = trained(StepsAnyway(), max_epochs=1, limit_train_batches=3).seen

    assert lrs == pytest.approx([0.1, 0.05, 0.025])


def test_mixin_without_a_schedule_is_told():
    """Nothing would move the learning rate."""

    class Forgets(Scheduled):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    with pytest.warns(
        UserWarning, match=r"Forgets has the CLRMixin, but no schedule: .*`self\.with_schedule\(optimizer\)`"
    ):
        trained(Forgets(), max_steps=1)


def test_schedule_may_be_one_of_the_class():
    """As may that of a module which steps it by hand, of which Lightning knows nothing."""

    class OfTheClass(Scheduled):
        schedule = Cyclic(cycles=2)

        def configure_optimizers(self):
            self.config = super().configure_optimizers()
            return self.config["optimizer"]

    trained(module := OfTheClass(), max_steps=1)

    assert module.schedule == Cyclic(cycles=2)
    assert module.config["lr_scheduler"]["scheduler"].schedule == Cyclic(cycles=2)


@pytest.mark.parametrize(("name", "value"), [("schedule", "OneCycle"), ("lr_bounds", (0.01, 0.1))])
def test_what_is_set_is_checked(name, value):
    """By its own name, before the first step."""
    module = Scheduled()
    setattr(module, name, value)

    with pytest.raises(TypeError, match=f"`{name}` must be"):
        trained(module, max_steps=1)
