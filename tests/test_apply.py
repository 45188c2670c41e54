"""Bounds reach whatever drives the learning rate: the live schedule becomes that of a training that always had them."""

import math

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)

from lightning_clr import Cyclic, LRBounds, LRRangeTest, OneCycle, ScheduleLR
from lightning_clr.apply import apply_bounds, constant_lr, peak_lrs
from support.data import loader
from support.models import Plain, Scheduled
from support.training import quiet_trainer, trained

CONFIGURED = LRBounds(0.02, 0.1)
FOUND = LRBounds(0.5, 3.0)
SHARES = (1.0, 0.1, 0.0)  # of three parameter groups in the learning rate; the third is frozen


def sgd(lrs):
    return SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], momentum=0.9)


def adamw(lrs):
    return AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs])


def adamw_with_tensor_lr(lrs):
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": torch.tensor(lr, dtype=torch.float64)} for lr in lrs
    ]
    return AdamW(groups, foreach=False)


def cyclic_lr(**arguments):
    def build(optimizer, bounds):
        base_lr, max_lr = ([lr * share for share in SHARES] for lr in (bounds.base_lr, bounds.max_lr))
        return CyclicLR(optimizer, base_lr, max_lr, step_size_up=7, **arguments)

    return build


def one_cycle(optimizer, bounds):
    return ScheduleLR(optimizer, OneCycle(), 31, bounds)


def one_cycle_lr(**arguments):
    def build(optimizer, bounds):
        max_lr = [bounds.max_lr * share for share in SHARES]
        return OneCycleLR(optimizer, max_lr, 31, div_factor=bounds.max_lr / bounds.base_lr, **arguments)

    return build


def warm_up_then(build):
    def both(optimizer, bounds):
        return SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=5), build(optimizer, bounds)], [5])

    return both


def then_exponential(build):
    def both(optimizer, bounds):
        return SequentialLR(optimizer, [build(optimizer, bounds), ExponentialLR(optimizer, 0.9)], [20])

    return both


SCHEDULERS = {
    "ScheduleLR OneCycle": one_cycle,
    "ScheduleLR Cyclic": lambda optimizer, bounds: ScheduleLR(optimizer, Cyclic(step_size=7), None, bounds),
    "CyclicLR": cyclic_lr(),
    "CyclicLR triangular2": cyclic_lr(mode="triangular2", step_size_down=3),
    "CyclicLR exp_range": cyclic_lr(mode="exp_range", gamma=0.9),
    "CyclicLR without momentum": cyclic_lr(cycle_momentum=False),
    "OneCycleLR": one_cycle_lr(),
    "OneCycleLR linear": one_cycle_lr(anneal_strategy="linear", final_div_factor=7.0),
    "OneCycleLR three phases": one_cycle_lr(three_phase=True),
    "StepLR": lambda optimizer, _: StepLR(optimizer, 7),
    "MultiStepLR": lambda optimizer, _: MultiStepLR(optimizer, [3, 11]),
    "CosineAnnealingLR": lambda optimizer, _: CosineAnnealingLR(optimizer, 40),
    "CosineAnnealingWarmRestarts": lambda optimizer, _: CosineAnnealingWarmRestarts(optimizer, 7),
    "ExponentialLR": lambda optimizer, _: ExponentialLR(optimizer, 0.9),
    "PolynomialLR": lambda optimizer, _: PolynomialLR(optimizer, 40),
    "LambdaLR": lambda optimizer, _: LambdaLR(optimizer, lambda step: min(1, (step + 1) / 5)),
    "LambdaLR from zero": lambda optimizer, _: LambdaLR(optimizer, lambda step: min(1, step / 5)),
    "ChainedScheduler": lambda optimizer, _: ChainedScheduler(
        [ConstantLR(optimizer, 0.1, 4), CosineAnnealingLR(optimizer, 40)]
    ),
    "SequentialLR cosine": warm_up_then(lambda optimizer, _: CosineAnnealingLR(optimizer, 40)),
    "SequentialLR exponential": warm_up_then(lambda optimizer, _: ExponentialLR(optimizer, 0.9)),
    "SequentialLR CyclicLR": warm_up_then(cyclic_lr()),
    "SequentialLR OneCycleLR": warm_up_then(one_cycle_lr()),
    "ScheduleLR, then exponential": then_exponential(one_cycle),
    "CyclicLR, then exponential": then_exponential(cyclic_lr()),
    "OneCycleLR, then exponential": then_exponential(one_cycle_lr()),
}


def history(optimizer, schedulers, steps=30):
    """Learning rate, momentum and betas of every group at every step."""
    seen = []
    for _ in range(steps):
        for group in optimizer.param_groups:
            seen += [float(group["lr"]), group.get("momentum", 0.0), *map(float, group.get("betas", ()))]
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return seen


@pytest.mark.parametrize("make", [sgd, adamw, adamw_with_tensor_lr])
@pytest.mark.parametrize("build", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_scheduler_moves_as_if_it_had_the_bounds_from_the_start(build, make):
    """Learning rates and momenta of a frozen group and of two with different rates, step by step."""
    optimizer, expected = make([0.1 * share for share in SHARES]), make([3.0 * share for share in SHARES])
    scheduler, expected_scheduler = build(optimizer, CONFIGURED), build(expected, FOUND)

    assert apply_bounds([optimizer], [scheduler], FOUND) == 3.0
    assert [*map(float, scheduler.get_last_lr())] == [float(group["lr"]) for group in optimizer.param_groups]
    assert history(optimizer, [scheduler]) == pytest.approx(history(expected, [expected_scheduler]), rel=1e-12)


@pytest.mark.parametrize("name", ["ScheduleLR OneCycle", "CyclicLR", "OneCycleLR", "StepLR", "CosineAnnealingLR"])
def test_largest_group_gets_the_bounds_to_the_last_bit(name):
    """No rounding is added: training is to be bit for bit that with the bounds from the start."""
    optimizer, expected = (sgd([lr, 0.1 * lr, 0.0]) for lr in (0.07, 0.3))
    found = LRBounds(0.1, 0.3)
    scheduler = SCHEDULERS[name](optimizer, LRBounds(0.01, 0.07))
    expected_scheduler = SCHEDULERS[name](expected, found)

    apply_bounds([optimizer], [scheduler], found)

    assert scheduler.get_last_lr()[0] == expected_scheduler.get_last_lr()[0]


@pytest.mark.parametrize("order", [1, -1], ids=["warm-up first", "warm-up last"])
def test_two_schedulers_of_one_optimizer_both_start_from_max_lr(order):
    """A warm-up per step beside a decay per epoch, as Lightning allows."""

    def pair(optimizer):
        kinds = [lambda: LambdaLR(optimizer, lambda step: min(1, (step + 1) / 5)), lambda: StepLR(optimizer, 7)]
        return [kind() for kind in kinds[::order]]

    optimizer, expected = sgd([0.1, 0.01]), sgd([3.0, 0.3])
    schedulers, expected_schedulers = pair(optimizer), pair(expected)

    apply_bounds([optimizer], schedulers, FOUND)

    assert history(optimizer, schedulers) == pytest.approx(history(expected, expected_schedulers), rel=1e-12)


def test_constant_training_gets_half_of_max_lr():
    """Groups without any scheduler, in their ratio."""
    optimizer = sgd([0.1, 0.02, 0.0])

    assert apply_bounds([optimizer], [], FOUND) == constant_lr(FOUND) == 1.5
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.5, 0.3, 0.0])


def test_plateau_starts_at_the_constant_rate_and_still_reacts():
    """`ReduceLROnPlateau` has no initial learning rate: it divides the one in force."""
    optimizer = sgd([0.1, 0.02])
    scheduler = ReduceLROnPlateau(optimizer, patience=0, factor=0.5)

    assert apply_bounds([optimizer], [scheduler], FOUND) == 1.5
    assert scheduler.get_last_lr() == pytest.approx([1.5, 0.3])
    scheduler.step(1.0)
    scheduler.step(2.0)
    assert scheduler.get_last_lr() == pytest.approx([0.75, 0.15])


@pytest.mark.parametrize("build", [None, *SCHEDULERS.values()], ids=["none", *SCHEDULERS])
def test_tensor_lr_is_filled_in_place(build):
    """Compiled optimizers and captured graphs hold on to the tensor."""
    optimizer = adamw_with_tensor_lr([0.1 * share for share in SHARES])
    schedulers = [build(optimizer, CONFIGURED)] if build else []
    before = [group["lr"] for group in optimizer.param_groups]

    apply_bounds([optimizer], schedulers, FOUND)

    assert all(group["lr"] is lr for group, lr in zip(optimizer.param_groups, before, strict=True))


def test_two_optimizers_keep_their_ratio():
    """The bounds are those of the larger one; each keeps its own scheduler, or none."""
    large, small, constant = sgd([0.1]), sgd([0.02]), sgd([0.01])
    schedulers = [StepLR(large, 7), CyclicLR(small, base_lr=0.004, max_lr=0.02)]

    assert apply_bounds([large, small, constant], schedulers, FOUND) == 3.0
    assert large.param_groups[0]["lr"] == 3.0
    assert schedulers[1].base_lrs == pytest.approx([0.1])
    assert schedulers[1].max_lrs == pytest.approx([0.6])
    assert constant.param_groups[0]["lr"] == pytest.approx(0.15)


@pytest.mark.parametrize("reference_lr", [0.1, None], ids=["bounds of the larger", "bounds of its own"])
def test_two_schedules_keep_their_ratio(reference_lr):
    """With the ratio in the scheduler's ratios, as the mixin makes them, or in its bounds."""
    large, small = sgd([0.1]), sgd([0.02])
    schedule = Cyclic(step_size=10)
    schedulers = [ScheduleLR(one, schedule, None, reference_lr=reference_lr) for one in (large, small)]

    apply_bounds([large, small], schedulers, FOUND)

    assert [one.param_groups[0]["lr"] for one in (large, small)] == pytest.approx([0.5, 0.1])
    assert peak_lrs([large, small], schedulers) == [pytest.approx([3.0]), pytest.approx([0.6])]


PEAKS = {
    "none": (lambda optimizer, _: None, [0.05, 0.005, 0.0]),
    "ReduceLROnPlateau": (lambda optimizer, _: ReduceLROnPlateau(optimizer), [0.05, 0.005, 0.0]),
    "ScheduleLR": (SCHEDULERS["ScheduleLR OneCycle"], [0.1, 0.01, 0.0]),
    "CyclicLR": (SCHEDULERS["CyclicLR"], [0.1, 0.01, 0.0]),
    "OneCycleLR": (SCHEDULERS["OneCycleLR"], [0.1, 0.01, 0.0]),
    "LambdaLR from zero": (SCHEDULERS["LambdaLR from zero"], [0.05, 0.005, 0.0]),
    "SequentialLR cosine": (SCHEDULERS["SequentialLR cosine"], [0.05, 0.005, 0.0]),
    "SequentialLR CyclicLR": (SCHEDULERS["SequentialLR CyclicLR"], [0.1, 0.01, 0.0]),
}


@pytest.mark.parametrize(("build", "expected"), PEAKS.values(), ids=PEAKS.keys())
def test_peak_is_the_largest_planned_learning_rate(build, expected):
    """Not the one in force, which may be the foot of a warm-up."""
    optimizer = sgd([0.05, 0.005, 0.0])
    scheduler = build(optimizer, CONFIGURED)

    assert peak_lrs([optimizer], [scheduler]) == [pytest.approx(expected)]


class ByHand:
    """A scheduler that is none of torch's."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_unknown_scheduler_is_warned_about():
    """The learning rate is set, but whether the scheduler respects it, nobody knows."""
    optimizer = sgd([0.1, 0.01])

    with pytest.warns(UserWarning, match="cannot reach a ByHand, which is not a torch scheduler"):
        configured = apply_bounds([optimizer], [ByHand(optimizer)], FOUND)

    assert configured == 3.0
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([3.0, 0.3])


class Torch(Plain):
    """Plain, with two parameter groups and a scheduler of torch's at interval step."""

    def __init__(self, build=None, bounds=CONFIGURED, interval="step"):
        super().__init__()
        self.build, self.bounds, self.interval = build, bounds, interval

    def configure_optimizers(self):
        lr = self.bounds.max_lr
        groups = [{"params": self.body.parameters(), "lr": lr / 10}, {"params": self.head.parameters()}]
        optimizer = SGD(groups, lr=lr, momentum=0.9)
        if self.build is None:
            return optimizer
        scheduler = {"scheduler": self.build(optimizer, self.bounds), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


BODY_AND_HEAD = (0.1, 1.0)
IN_FIT = {
    "CyclicLR": lambda optimizer, bounds: CyclicLR(
        optimizer,
        base_lr=[bounds.base_lr * share for share in BODY_AND_HEAD],
        max_lr=[bounds.max_lr * share for share in BODY_AND_HEAD],
        step_size_up=5,
    ),
    "OneCycleLR": lambda optimizer, bounds: OneCycleLR(
        optimizer,
        [bounds.max_lr * share for share in BODY_AND_HEAD],
        32,
        div_factor=bounds.max_lr / bounds.base_lr,
    ),
    "LambdaLR from zero": lambda optimizer, _: LambdaLR(optimizer, lambda step: min(1, step / 5)),
    "StepLR": lambda optimizer, _: StepLR(optimizer, 7),
}


@pytest.mark.parametrize("build", IN_FIT.values(), ids=IN_FIT.keys())
def test_torch_scheduler_gets_the_bounds_in_the_same_fit(build):
    """A module that knows nothing of this package trains as if constructed with the bounds."""
    test = LRRangeTest()
    tested = Torch(build)
    twin = Torch(build)
    twin.load_state_dict(tested.state_dict())

    lrs = trained(tested, callbacks=[test], max_epochs=2).of_groups
    twin.bounds = test.result.bounds

    assert lrs == [pytest.approx(step, rel=1e-12) for step in trained(twin, max_epochs=2).of_groups]
    torch.testing.assert_close(tested.state_dict(), twin.state_dict(), rtol=1e-6, atol=1e-7)


def test_module_without_scheduler_trains_at_the_constant_rate():
    """Half of what the test found as max_lr, at every step."""
    test = LRRangeTest()

    lrs = trained(Torch(), callbacks=[test], max_epochs=1).of_groups

    half = test.result.bounds.max_lr / 2
    assert lrs == [pytest.approx([half / 10, half])] * 16


class Net(Scheduled):
    """With the learning rate as hyper-parameter and attribute."""

    def __init__(self, lr=0.1, learning_rate=0.1, schedule=None, lr_bounds=None, constant=False):
        super().__init__(schedule=schedule, lr_bounds=lr_bounds)
        self.save_hyperparameters()
        self.lr = lr
        self.learning_rate = learning_rate

    def configure_optimizers(self):
        if self.hparams.constant:
            return SGD(self.parameters(), lr=self.lr)
        return super().configure_optimizers()


def checkpoint_of(module, path="net.ckpt"):
    """The bounds found, and the checkpoint saved in that fit."""
    test = LRRangeTest()
    trainer = quiet_trainer(max_epochs=1, callbacks=[test])
    trainer.fit(module, loader())
    trainer.save_checkpoint(path)
    return test.result.bounds, torch.load(path, weights_only=True)


@pytest.mark.filterwarnings("ignore:Net has the CLRMixin, but no schedule")
@pytest.mark.parametrize(("constant", "share"), [(False, 1.0), (True, 1 / 2)], ids=["scheduled", "constant"])
@pytest.mark.parametrize("lr", [0.1, 1])
def test_hyperparameters_tell_what_is_in_force(lr, constant, share):
    """`lr` and `learning_rate`, as attributes, hyper-parameters and in the checkpoint."""
    module = Net(lr, lr, constant=constant)

    found, checkpoint = checkpoint_of(module)

    saved = checkpoint["hyper_parameters"]
    told = [module.lr, module.learning_rate, module.hparams.lr, module.hparams.learning_rate]
    told += [saved["lr"], saved["learning_rate"]]
    assert told == [pytest.approx(found.max_lr * share)] * 6


def test_checkpoint_with_schedule_and_bounds_among_the_hyperparameters_loads():
    """`torch.load(weights_only=True)` knows the classes, and the module is constructed with the bounds found."""
    found, checkpoint = checkpoint_of(Net(schedule=OneCycle(pct_start=0.4), lr_bounds=LRBounds(0.001, 0.01)))

    loaded = Net.load_from_checkpoint("net.ckpt", weights_only=True)

    assert checkpoint["hyper_parameters"]["lr_bounds"] == loaded.lr_bounds == found
    assert loaded.schedule == OneCycle(pct_start=0.4)
    assert loaded.lr == found.max_lr


def test_hyperparameters_that_do_not_exist_are_not_invented():
    """A module without `lr` has none after the test."""
    module = Torch()

    _, checkpoint = checkpoint_of(module)

    assert not hasattr(module, "lr")
    assert not hasattr(module, "lr_bounds")
    assert "hyper_parameters" not in checkpoint


class WithProperty(Plain):
    """Reads its learning rate from the hyper-parameters."""

    def __init__(self, lr=0.1):
        super().__init__()
        self.save_hyperparameters()

    @property
    def lr(self):
        return self.hparams.lr

    def configure_optimizers(self):
        return SGD(self.parameters(), lr=self.lr)


def test_lr_may_be_a_property_of_the_hyperparameters():
    """It cannot be assigned, and need not: the hyper-parameter behind it is updated."""
    module = WithProperty()

    found, _ = checkpoint_of(module)

    assert math.isclose(module.lr, found.max_lr / 2)
