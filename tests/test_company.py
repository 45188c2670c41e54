"""``ScheduleLR`` in company with torch's schedulers and others: torch's own tests are the yardstick."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CyclicLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from lightning_clr import Cyclic, LRBounds, OneCycle, Schedule, ScheduleLR
from lightning_clr.apply import apply_bounds
from support.data import loader
from support.models import Plain, Scheduled
from support.training import quiet_trainer

BOUNDS = LRBounds(0.1, 0.5)
UP_AND_DOWN = Cyclic(step_size=2)


def sgd(*lrs, **arguments):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs or (0.5,)]
    return SGD(groups, **{"momentum": 0.9, **arguments})


def lrs_ahead(optimizer, scheduler, steps):
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


def warmed_up(optimizer, schedule=UP_AND_DOWN, bounds=None, first=LinearLR):
    """A warm-up of four steps, and then the schedule, whichever is made first."""
    if first is ScheduleLR:
        main = ScheduleLR(optimizer, schedule, 8, bounds)
        warm_up = LinearLR(optimizer, 0.25, total_iters=3)
    else:
        warm_up = LinearLR(optimizer, 0.25, total_iters=3)
        main = ScheduleLR(optimizer, schedule, 8, bounds)
    return SequentialLR(optimizer, [warm_up, main], milestones=[4])


orders = pytest.mark.parametrize("first", [LinearLR, ScheduleLR], ids=["warm-up made first", "schedule made first"])
WARM = [0.125, 0.25, 0.375, 0.5]


@orders
def test_warm_up_leads_to_the_configured_rate_and_leaves_the_schedule_whole(first):
    """Its bounds are not those of a warm-up that has just begun."""
    optimizer = sgd()
    lrs = lrs_ahead(optimizer, warmed_up(optimizer, first=first), 8)

    assert lrs == pytest.approx([*WARM, 0.125, 0.3125, 0.5, 0.3125])


@orders
@pytest.mark.parametrize("when", [0, 2])
def test_new_bounds_do_not_disturb_who_comes_before(first, when):
    """They count from the schedule's first step on, that one included, and so does its momentum."""
    optimizer = sgd()
    scheduler = warmed_up(optimizer, first=first)
    lrs = lrs_ahead(optimizer, scheduler, when)
    scheduler._schedulers[1].set_bounds(LRBounds(0.2, 0.4))
    lrs += lrs_ahead(optimizer, scheduler, 4 - when)

    assert lrs == pytest.approx(WARM)
    assert optimizer.param_groups[0]["momentum"] == pytest.approx(0.9)
    assert lrs_ahead(optimizer, scheduler, 4) == pytest.approx([0.2, 0.3, 0.4, 0.3])


@orders
def test_range_test_bounds_are_the_peak_after_a_warm_up(first):
    """No learning rate above ``max_lr``, and no momentum before its time."""
    optimizer = sgd()
    scheduler = warmed_up(optimizer, OneCycle(div_factor=4), first=first)
    apply_bounds([optimizer], [scheduler], LRBounds(0.12, 0.48))
    lrs = lrs_ahead(optimizer, scheduler, 12)

    assert lrs[:4] == pytest.approx([0.12, 0.24, 0.36, 0.48])
    assert max(lrs) == pytest.approx(0.48)
    assert lrs[4] == pytest.approx(0.12)


@pytest.mark.parametrize("cut", range(1, 11))
def test_state_goes_round_within_a_sequence(cut):
    """Before its turn, in its turn and after it, loading a state writes nothing that another scheduler has to say."""

    def make(optimizer):
        parts = [LinearLR(optimizer, 0.25, total_iters=3), ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)]
        return SequentialLR(optimizer, [*parts, ExponentialLR(optimizer, 0.5)], milestones=[4, 8])

    optimizer = sgd()
    scheduler = make(optimizer)
    whole = lrs_ahead(optimizer, scheduler, 12)
    before, after = sgd(), sgd(7.0)
    first = make(before)
    lrs_ahead(before, first, cut)
    second = make(after)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))

    assert lrs_ahead(after, second, 12 - cut) == pytest.approx(whole[cut:])


def test_schedule_writes_absolute_rates_in_a_chain():
    """Like CyclicLR and OneCycleLR: what another scheduler has multiplied is written over at the next step."""
    ours, theirs = sgd(), sgd()
    chain = ChainedScheduler([ScheduleLR(ours, UP_AND_DOWN, None, BOUNDS), ConstantLR(ours, 0.5, 3)])
    cyclic = CyclicLR(theirs, 0.1, 0.5, 2)
    expected = ChainedScheduler([cyclic, ConstantLR(theirs, 0.5, 3)])

    assert lrs_ahead(ours, chain, 6)[1:3] == pytest.approx(lrs_ahead(theirs, expected, 6)[1:3])


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled], ids=["deep copy", "pickle"])
def test_copy_goes_on_by_itself(duplicate):
    """It listens to its own optimizer."""
    optimizer = sgd()
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    lrs_ahead(optimizer, scheduler, 1)
    other, copied = duplicate((optimizer, scheduler))

    assert copied.optimizer is other
    assert copied.optimizer_stepped is False
    other.step()
    assert copied.optimizer_stepped is True
    assert scheduler.optimizer_stepped is False
    copied.step()
    assert other.param_groups[0]["lr"] == pytest.approx(0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)


def test_copied_module_trains_with_its_schedule():
    """A deep copy of optimizer and scheduler, as libraries that clone trainings make."""
    module = Scheduled(schedule=UP_AND_DOWN, lr_bounds=BOUNDS)
    configure = module.configure_optimizers
    module.configure_optimizers = lambda: copy.deepcopy(configure())
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=5)
    trainer.fit(module, loader())

    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 5


def test_nothing_is_kept_alive():
    """Schedulers and optimizer go when nobody needs them, without the garbage collector."""
    optimizer = sgd()
    schedulers = [ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS) for _ in range(5)]
    lrs_ahead(optimizer, schedulers[0], 3)
    assert len(optimizer._optimizer_step_post_hooks) == 1

    alive = [weakref.ref(optimizer), *map(weakref.ref, schedulers)]
    gc.disable()
    try:
        del optimizer, schedulers
        assert [reference() for reference in alive] == [None] * 6
    finally:
        gc.enable()


class OfTensors(Schedule):
    """A policy that computes with tensors."""

    def __init__(self):
        self.values = torch.tensor(0.3), torch.tensor(0.8)

    def lr(self, step, total_steps, bounds):
        return self.values[0]

    def momentum(self, step, total_steps):
        return self.values[1]


@pytest.mark.parametrize(
    ("make", "momentum"),
    [(lambda groups: SGD(groups, momentum=0.9), "momentum"), (lambda groups: Adam(groups), "betas")],
    ids=["momentum", "betas"],
)
def test_tensors_of_a_schedule_are_not_given_away(make, momentum):
    """Nor shared between groups."""
    optimizer = make([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1} for _ in range(2)])
    schedule = OfTensors()
    ScheduleLR(optimizer, schedule, 10)

    for group in optimizer.param_groups:
        value = group[momentum][0] if momentum == "betas" else group[momentum]
        assert value == pytest.approx(0.8)
        assert not isinstance(value, torch.Tensor)
        assert not isinstance(group["lr"], torch.Tensor)


def test_several_schedules_on_one_optimizer_all_advance():
    """Each knows for itself whether the optimizer has stepped since."""
    optimizer = sgd()
    one, other = (ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS) for _ in range(2))
    optimizer.step()
    one.step()

    assert other.optimizer_stepped is True


@pytest.mark.parametrize("last_epoch", [0, 3, 6])
def test_last_epoch_continues_as_torch_does(last_epoch):
    """With ``initial_lr`` in the groups; without it both refuse."""
    ours, theirs = sgd(0.5, 0.25), sgd(0.5, 0.25)
    for group in ours.param_groups:
        group["initial_lr"] = group["lr"]
    scheduler = ScheduleLR(ours, OneCycle(), 10, last_epoch=last_epoch)
    expected = OneCycleLR(theirs, [0.5, 0.25], 10)
    lrs_ahead(theirs, expected, last_epoch + 1)

    assert scheduler.get_last_lr() == pytest.approx([group["lr"] for group in theirs.param_groups])
    with pytest.raises(KeyError, match="initial_lr"):
        ScheduleLR(sgd(), OneCycle(), 10, last_epoch=last_epoch)


class Timms:
    """The base of timm's schedulers in short: told the step, and no scheduler of torch's."""

    def __init__(self, optimizer, lr_min=0.01, warmup_t=4, warmup_lr_init=0.02):
        self.optimizer, self.param_group_field = optimizer, "lr"
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_values = [group["initial_lr"] for group in optimizer.param_groups]
        self.lr_min, self.warmup_t, self.warmup_lr_init = lr_min, warmup_t, warmup_lr_init
        self.lr_decay = 0.5
        self.warmup_steps = [(value - warmup_lr_init) / warmup_t for value in self.base_values]
        self.step_update(0)

    def step_update(self, step):
        for group, base, rise in zip(self.optimizer.param_groups, self.base_values, self.warmup_steps, strict=True):
            falling = max(base * self.lr_decay ** (step - self.warmup_t), self.lr_min)
            group["lr"] = self.warmup_lr_init + step * rise if step < self.warmup_t else falling

    def state_dict(self):
        return {key: value for key, value in vars(self).items() if key != "optimizer"}

    def load_state_dict(self, state_dict):
        vars(self).update(state_dict)


class Restarts(LRScheduler):
    """A scheduler of a user's with a ``max_lr`` of its own, and lower learning rates as its base."""

    def __init__(self, optimizer, max_lr=0.2, min_lr=0.02):
        self.max_lr, self.min_lr = max_lr, min_lr
        super().__init__(optimizer)
        self.base_lrs = [min_lr for _ in self.base_lrs]

    def get_lr(self):
        height = (self.last_epoch % 4) / 4
        return [self.min_lr + (self.max_lr - self.min_lr) * height for _ in self.optimizer.param_groups]


class Closed:
    """A scheduler that tells nothing of its learning rates."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.param_groups[0]["lr"] *= 0.9


def update(scheduler, step):
    scheduler.step() if isinstance(scheduler, LRScheduler) else scheduler.step_update(step)


@pytest.mark.parametrize(("make", "top"), [(Timms, 0.5), (Restarts, 0.2)], ids=["timm's", "torch's, by a user"])
def test_scheduler_that_is_not_torchs_keeps_its_form_at_the_found_scale(make, top):
    """All its learning rates are multiplied by the same number, from the first step on."""
    plain, found = sgd(0.5, 0.25), sgd(0.5, 0.25)
    before, after = make(plain), make(found)
    apply_bounds([found], [after], LRBounds(0.01, 3 * top))

    for step in range(1, 12):
        for optimizer in (plain, found):
            optimizer.step()
        update(before, step)
        update(after, step)
        lrs = [group["lr"] for group in found.param_groups]
        assert lrs == pytest.approx([3 * group["lr"] for group in plain.param_groups])


def test_scheduler_that_cannot_be_scaled_is_named_with_what_to_do():
    """Its learning rates are its own."""
    optimizer = sgd()
    with pytest.warns(UserWarning, match=r"cannot reach a Closed.*Construct it with 0\.3 as"):
        apply_bounds([optimizer], [Closed(optimizer)], LRBounds(0.1, 0.3))


def test_plain_module_with_optimizer_of_another_fit_starts_from_its_configured_rate():
    """A module that keeps its optimizer: the second schedule is that of the first, not of where that has ended."""

    class Keeps(Scheduled):
        kept = None

        def configure_optimizers(self):
            self.kept = self.kept or Plain.configure_optimizers(self)
            return self.with_schedule(self.kept)

    module = Keeps()
    tops = []
    for _ in range(2):
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(module, loader())
        tops.append(trainer.lr_scheduler_configs[0].scheduler.bounds.max_lr)

    assert tops == [0.1, 0.1]
