"""Schedules on real optimizers: groups, tensors, momentum, new bounds, resuming."""

import copy
import io
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CyclicLR, LinearLR, OneCycleLR, SequentialLR

from lightning_clr import Cyclic, LRBounds, OneCycle, Schedule, ScheduleLR, Sweep

pytestmark = pytest.mark.filterwarnings("ignore:.* was planned for .* optimizer steps, but training makes more")

UP_AND_DOWN = Cyclic(step_size=2)
BOUNDS = LRBounds(1.0, 3.0)


def weight(size=1):
    return torch.nn.Parameter(torch.linspace(-1, 1, size + 1)[:-1])


def groups(*lrs):
    """One parameter group for each learning rate."""
    return [{"params": [weight(3)], "lr": lr} for lr in lrs]


def lrs_of(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


def momentum_of(group):
    return float(group["momentum"] if "momentum" in group else group["betas"][0])


def take_step(optimizer, scheduler):
    """One step of training towards weights of one."""
    optimizer.zero_grad()
    sum((p - 1).square().sum() for group in optimizer.param_groups for p in group["params"]).backward()
    optimizer.step()
    scheduler.step()


def train(optimizer, scheduler, steps):
    """What each step of training uses (learning rates, momenta) and what it leaves (weights)."""
    rows = []
    for _ in range(steps):
        used = lrs_of(optimizer), [momentum_of(group) for group in optimizer.param_groups]
        take_step(optimizer, scheduler)
        rows.append((*used, [p.tolist() for group in optimizer.param_groups for p in group["params"]]))
    return rows


def train_lrs(optimizer, scheduler, steps):
    """Learning rates of each step of training."""
    rows = []
    for _ in range(steps):
        rows.append(lrs_of(optimizer))
        take_step(optimizer, scheduler)
    return rows


def saved_and_loaded(**parts):
    """State dictionaries after a trip through a file, read as carefully as torch can."""
    file = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(rows):
    return [number for row in rows for numbers in (row[0], row[1], *row[2]) for number in numbers]


optimizers = pytest.mark.parametrize(
    "make",
    [lambda groups: SGD(groups, lr=0.1, momentum=0.9), lambda groups: Adam(groups, lr=0.1)],
    ids=["sgd", "adam"],
)

# --- torch ------------------------------------------------------------------------------------------------------------


@optimizers
@pytest.mark.parametrize("shape", [{}, {"pct_start": 0.4, "three_phase": True}], ids=["two phases", "three phases"])
def test_training_is_that_of_torch_one_cycle_lr(make, shape):
    """The same learning rates, momenta and weights at every step, in groups of different learning rates."""
    optimizer, theirs = make(groups(0.1, 0.02)), make(groups(0.1, 0.02))
    ours = train(optimizer, ScheduleLR(optimizer, OneCycle(**shape), 20), 20)

    expected = train(theirs, OneCycleLR(theirs, max_lr=[0.1, 0.02], total_steps=20, **shape), 20)
    assert flat(ours) == pytest.approx(flat(expected), rel=1e-6, abs=1e-7)
    assert [row[:2] for row in ours] == [
        (pytest.approx(lrs, rel=1e-14), pytest.approx(momenta, rel=1e-14)) for lrs, momenta, _ in expected
    ]


@optimizers
@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_training_is_that_of_torch_cyclic_lr(make, mode):
    """The same learning rates, momenta and weights at every step, without a known end."""
    optimizer, theirs = make(groups(0.1, 0.02)), make(groups(0.1, 0.02))
    ours = train(optimizer, ScheduleLR(optimizer, Cyclic(step_size=3, mode=mode, gamma=0.9), None), 20)

    scheduler = CyclicLR(theirs, [0.025, 0.005], [0.1, 0.02], step_size_up=3, mode=mode, gamma=0.9)
    expected = train(theirs, scheduler, 20)
    assert flat(ours) == pytest.approx(flat(expected), rel=1e-6, abs=1e-7)
    assert [row[:2] for row in ours] == [
        (pytest.approx(lrs, rel=1e-13), pytest.approx(momenta, rel=1e-13)) for lrs, momenta, _ in expected
    ]


def test_a_warm_up_of_torchs_may_come_first():
    """Inside SequentialLR the schedule starts when its turn comes; made first, it leaves the warm-up alone."""
    optimizer = SGD(groups(1.0, 0.5))
    schedule = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    warm_up = LinearLR(optimizer, start_factor=0.25, total_iters=3)
    rows = train_lrs(optimizer, SequentialLR(optimizer, [warm_up, schedule], milestones=[3]), 8)

    assert [row[0] for row in rows] == pytest.approx([0.25, 0.5, 0.75, 1, 2, 3, 2, 1])
    assert [row[1] for row in rows] == pytest.approx([0.125, 0.25, 0.375, 0.5, 1, 1.5, 1, 0.5])


# --- learning rates ---------------------------------------------------------------------------------------------------


def test_without_bounds_the_optimizers_learning_rate_is_the_highest():
    """The lower bound follows from the schedule."""
    optimizer = SGD(groups(0.8))
    scheduler = ScheduleLR(optimizer, Cyclic(step_size=1, div_factor=4), None)

    assert [row[0] for row in train_lrs(optimizer, scheduler, 3)] == pytest.approx([0.2, 0.8, 0.2])


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(
    lrs=st.lists(st.floats(1e-6, 10), min_size=1, max_size=5),
    schedule=st.sampled_from([OneCycle(), OneCycle(anneal="smith"), Cyclic(), Cyclic(step_size=3), Sweep()]),
)
def test_groups_keep_their_ratios_at_every_step(lrs, schedule):
    """Whatever their order, the one with the largest learning rate moves between the bounds."""
    optimizer = SGD(groups(*lrs))
    rows = train_lrs(optimizer, ScheduleLR(optimizer, schedule, 12, LRBounds(0.001, 0.01)), 15)
    alone = SGD(groups(1.0))
    top = [row[0] for row in train_lrs(alone, ScheduleLR(alone, schedule, 12, LRBounds(0.001, 0.01)), 15)]

    for position, lr in enumerate(lrs):
        assert [row[position] for row in rows] == pytest.approx([lr / max(lrs) * highest for highest in top], rel=1e-14)
    assert [max(row) for row in rows] == top


def test_a_group_at_zero_stays_at_zero():
    """A frozen group is not thawed."""
    optimizer = SGD(groups(0.1, 0.0))
    rows = train_lrs(optimizer, ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS), 4)

    assert rows == [[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [2.0, 0.0]]


def test_a_reference_spans_several_optimizers():
    """The learning rate of ratio 1 may belong to another optimizer."""
    optimizer = SGD(groups(0.5, 0.25))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS, reference_lr=1.0)

    assert scheduler.get_last_lr() == lrs_of(optimizer) == [0.5, 0.25]


def test_the_last_learning_rates_are_those_in_the_groups():
    """``get_last_lr`` reports what is in force, as loggers expect."""
    optimizer = SGD(groups(0.1, 0.02))
    scheduler = ScheduleLR(optimizer, OneCycle(), 5)

    for _ in range(7):
        assert scheduler.get_last_lr() == lrs_of(optimizer)
        take_step(optimizer, scheduler)


@pytest.mark.parametrize("schedule", [OneCycle(), Sweep(), Cyclic(cycles=1)], ids=["one cycle", "sweep", "cyclic"])
def test_the_end_is_held(schedule):
    """Steps beyond the plan neither raise nor move anything."""
    optimizer = SGD(groups(0.1), momentum=0.9)
    rows = train(optimizer, ScheduleLR(optimizer, schedule, 5, LRBounds(0.01, 0.1)), 12)

    assert {(*lrs, *momenta) for lrs, momenta, _ in rows[4:]} == {(*rows[4][0], *rows[4][1])}
    assert rows[3][0] != rows[4][0]


def test_the_initial_lr_of_an_earlier_scheduler_counts():
    """As with torch's schedulers: a warm-up may have scaled the learning rate of now."""
    optimizer = SGD(groups(0.8, 0.4))
    LinearLR(optimizer, start_factor=0.1)
    scheduler = ScheduleLR(optimizer, Cyclic(step_size=1, div_factor=4), None)

    assert scheduler.get_last_lr() == pytest.approx([0.2, 0.1])


def test_last_epoch_starts_in_the_middle():
    """``last_epoch`` is the last step done; the bounds are those of the optimizer's ``initial_lr``, as in torch."""
    optimizer = SGD(groups(0.3, 0.15))
    for group, initial_lr in zip(optimizer.param_groups, (4.0, 2.0), strict=True):
        group["initial_lr"] = initial_lr
    scheduler = ScheduleLR(optimizer, Cyclic(step_size=4, div_factor=4), None, last_epoch=2)

    assert scheduler.last_epoch == 3
    assert scheduler.get_last_lr() == pytest.approx([3.25, 1.625])


class Halving(Schedule):
    """A policy of a user's, momentum included."""

    def lr(self, step, total_steps, bounds):
        return bounds.max_lr / 2**step

    def momentum(self, step, total_steps):
        return 0.5


def test_a_users_schedule_is_driven_like_ours():
    """Nothing but the two methods is asked of it."""
    optimizer = SGD(groups(8.0, 4.0), momentum=0.9)
    rows = train(optimizer, ScheduleLR(optimizer, Halving(), 3), 3)

    assert [row[:2] for row in rows] == [([8, 4], [0.5, 0.5]), ([4, 2], [0.5, 0.5]), ([2, 1], [0.5, 0.5])]


# --- tensors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer_class", [SGD, Adam, AdamW])
def test_a_tensor_stays_that_tensor(optimizer_class):
    """Compiled graphs hold on to it, so it is filled in place."""
    lr = torch.tensor(0.4)
    optimizer = optimizer_class([weight()], lr=lr)
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)

    for expected in (1.0, 2.0, 3.0, 2.0, 1.0):
        assert optimizer.param_groups[0]["lr"] is lr
        assert lr.item() == expected
        take_step(optimizer, scheduler)


def test_tensors_and_numbers_may_be_mixed():
    """Each group keeps its own kind and its ratio."""
    lr = torch.tensor(0.5, dtype=torch.float64)
    optimizer = SGD(groups(1.0, lr))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    take_step(optimizer, scheduler)

    assert optimizer.param_groups[0]["lr"] == 2.0
    assert isinstance(optimizer.param_groups[0]["lr"], float)
    assert optimizer.param_groups[1]["lr"] is lr
    assert lr.item() == 1.0


def test_a_beta_that_is_a_tensor_stays_that_tensor():
    """As for the learning rate; the second beta keeps object and value."""
    beta1, beta2 = torch.tensor(0.5), torch.tensor(0.75)
    optimizer = Adam([weight()], lr=torch.tensor(0.1), betas=(beta1, beta2), foreach=False)
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)

    for expected in (0.9, 0.85, 0.8, 0.85):
        assert optimizer.param_groups[0]["betas"][0] is beta1
        assert optimizer.param_groups[0]["betas"][1] is beta2
        assert beta1.item() == pytest.approx(expected)
        assert beta2.item() == 0.75
        take_step(optimizer, scheduler)


def test_state_of_tensors_is_plain_numbers():
    """A checkpoint says the same whatever holds the learning rate."""
    optimizer = SGD([weight()], lr=torch.tensor(0.5))
    state = ScheduleLR(optimizer, UP_AND_DOWN, None).state_dict()

    assert state == {"last_epoch": 0, "total_steps": None, "base_lr": 0.125, "max_lr": 0.5, "ratios": [1.0]}
    assert not any(isinstance(value, torch.Tensor) for value in state.values())


# --- momentum ---------------------------------------------------------------------------------------------------------


def momentum_rows(optimizer):
    """The numbers next to the learning rate at four steps of a cycle."""
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, LRBounds(0.1, 0.3))
    (group,) = optimizer.param_groups
    rows = []
    for _ in range(4):
        rows.append(group.get("betas", group.get("momentum")))
        scheduler.step()
    return rows


MOVED = [0.9, 0.85, 0.8, 0.85]


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD([weight()], lr=0.1, momentum=0.5),
        lambda: SGD([weight()], lr=0.1, momentum=0.5, nesterov=True),
        lambda: RMSprop([weight()], lr=0.1, momentum=0.5),
    ],
    ids=["sgd", "nesterov", "rmsprop"],
)
def test_momentum_that_is_used_moves(make):
    """Whatever it was, it starts at the schedule's upper one."""
    assert momentum_rows(make()) == pytest.approx(MOVED)


@pytest.mark.parametrize("optimizer_class", [SGD, RMSprop])
def test_no_momentum_is_not_given_any(optimizer_class):
    """Zero stays zero: the user chose it, and RMSprop would need another buffer."""
    assert momentum_rows(optimizer_class([weight()], lr=0.1, momentum=0)) == [0, 0, 0, 0]


def test_an_optimizer_without_momentum_is_left_alone():
    """Adagrad has no such number, and gets none."""
    optimizer = Adagrad([weight()], lr=0.1)
    before = set(optimizer.param_groups[0])

    assert momentum_rows(optimizer) == [None] * 4
    assert set(optimizer.param_groups[0]) == before | {"initial_lr"}


@pytest.mark.parametrize("optimizer_class", [Adam, AdamW, torch.optim.NAdam, torch.optim.RAdam])
def test_the_first_beta_moves_alone(optimizer_class):
    """beta2 is never touched."""
    rows = momentum_rows(optimizer_class([weight()], lr=0.1, betas=(0.5, 0.75)))

    assert [beta1 for beta1, _ in rows] == pytest.approx(MOVED)
    assert {beta2 for _, beta2 in rows} == {0.75}


def test_a_first_beta_of_zero_stays_zero():
    """Adam without momentum, as in the training of GANs."""
    assert momentum_rows(Adam([weight()], lr=0.1, betas=(0.0, 0.9))) == [(0.0, 0.9)] * 4


def test_three_betas_keep_the_other_two():
    """Adan and AdEMAMix have three."""
    rows = momentum_rows(Optimizer([weight()], {"lr": 0.1, "betas": (0.98, 0.92, 0.99)}))

    assert [betas[0] for betas in rows] == pytest.approx(MOVED)
    assert {betas[1:] for betas in rows} == {(0.92, 0.99)}


def test_each_group_has_its_own_choice():
    """Momentum moves where it is used and not next door."""
    users, others = groups(0.1, 0.1)
    optimizer = SGD([users | {"momentum": 0.9}, others])
    rows = train(optimizer, ScheduleLR(optimizer, UP_AND_DOWN, None), 3)

    assert [momenta for _, momenta, _ in rows] == [[0.9, 0], [pytest.approx(0.85), 0], [0.8, 0]]


@pytest.mark.parametrize("schedule", [OneCycle(cycle_momentum=False), Sweep()], ids=["asked to", "sweep"])
def test_a_schedule_may_leave_momentum_alone(schedule):
    """The optimizer's own stays."""
    optimizer = SGD(groups(0.1), momentum=0.6)
    rows = train(optimizer, ScheduleLR(optimizer, schedule, 5), 5)

    assert {momentum for _, (momentum,), _ in rows} == {0.6}


# --- new bounds -------------------------------------------------------------------------------------------------------


def test_new_bounds_keep_the_position():
    """Halfway up the old bounds becomes halfway up the new ones, at once, in all groups; momentum stays."""
    optimizer = SGD(groups(1.0, 0.1), momentum=0.9)
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    take_step(optimizer, scheduler)
    momentum = optimizer.param_groups[0]["momentum"]
    scheduler.set_bounds(LRBounds(10.0, 50.0))

    assert lrs_of(optimizer) == pytest.approx([30.0, 3.0])
    assert scheduler.get_last_lr() == lrs_of(optimizer)
    assert optimizer.param_groups[0]["momentum"] == momentum


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    lrs=st.lists(st.floats(1e-6, 10), min_size=1, max_size=4),
    base_lr=st.floats(1e-7, 1),
    factor=st.floats(1, 1e3),
    late=st.integers(0, 11),
    schedule=st.sampled_from([OneCycle(), OneCycle(anneal="smith"), Cyclic(), Cyclic(step_size=3), Sweep()]),
)
def test_bounds_given_late_are_the_bounds_given_at_once(lrs, base_lr, factor, late, schedule):
    """From then on there is no difference, to the last bit."""
    bounds = LRBounds(base_lr, base_lr * factor)
    one, other = SGD(groups(*lrs), momentum=0.9), Adam(groups(*lrs))
    from_the_start, later = ScheduleLR(one, schedule, 12, bounds), ScheduleLR(other, schedule, 12)
    for step in range(14):
        if step == late:
            later.set_bounds(bounds)

        assert step < late or lrs_of(one) == lrs_of(other)
        assert one.param_groups[0]["momentum"] == other.param_groups[0]["betas"][0]
        from_the_start.step()
        later.step()
    assert from_the_start.state_dict() == later.state_dict()


# --- resuming ---------------------------------------------------------------------------------------------------------


@optimizers
@pytest.mark.parametrize(
    ("schedule", "total_steps"),
    [(OneCycle(), 10), (OneCycle(anneal="smith", pct_start=0.4), 10), (Cyclic(step_size=2, mode="triangular2"), None)],
    ids=["one cycle", "smith", "cyclic"],
)
@pytest.mark.parametrize("optimizer_first", [True, False], ids=["optimizer first", "scheduler first"])
def test_resuming_anywhere_is_as_if_nothing_had_happened(make, schedule, total_steps, optimizer_first):
    """After each cut, also beyond the end, learning rates, momenta and weights are the same numbers."""
    bounds = LRBounds(0.01, 0.3)
    optimizer = make(groups(0.1, 0.02))
    whole = train(optimizer, ScheduleLR(optimizer, schedule, total_steps, bounds), 13)
    for cut in range(13):
        before = make(groups(0.1, 0.02))
        scheduler = ScheduleLR(before, schedule, total_steps, bounds)
        train(before, scheduler, cut)
        after = make(copy.deepcopy([{"params": group["params"], "lr": 7.0} for group in before.param_groups]))
        parts = {"optimizer": after, "scheduler": ScheduleLR(after, schedule, total_steps)}
        state = saved_and_loaded(optimizer=before, scheduler=scheduler)
        for name in parts if optimizer_first else reversed(parts):
            parts[name].load_state_dict(state[name])

        assert train(after, parts["scheduler"], 13 - cut) == whole[cut:]


def test_the_state_is_a_few_plain_numbers():
    """Small, readable and safe to load."""
    optimizer = SGD(groups(0.5, 0.25))
    scheduler = ScheduleLR(optimizer, OneCycle(), 10, LRBounds(0.25, 1.0))
    scheduler.step()

    assert saved_and_loaded(scheduler=scheduler)["scheduler"] == {
        "last_epoch": 1,
        "total_steps": 10,
        "base_lr": 0.25,
        "max_lr": 1.0,
        "ratios": [1.0, 0.5],
    }


def test_the_checkpoints_bounds_win():
    """A range test ran before the cut; the constructor of the resumed run knows nothing of it."""
    scheduler = ScheduleLR(SGD(groups(0.5)), UP_AND_DOWN, None)
    scheduler.set_bounds(LRBounds(1.0, 9.0))
    scheduler.step()
    resumed = ScheduleLR(SGD(groups(0.5)), UP_AND_DOWN, None, LRBounds(0.001, 0.002))
    resumed.load_state_dict(scheduler.state_dict())

    assert resumed.bounds == LRBounds(1.0, 9.0)
    assert resumed.get_last_lr() == lrs_of(resumed.optimizer) == [5.0]


def test_a_state_is_not_shared_with_the_scheduler():
    """Loading, and training on, leave the dictionary as it was."""
    scheduler = ScheduleLR(SGD(groups(0.5)), UP_AND_DOWN, None)
    state = scheduler.state_dict()
    resumed = ScheduleLR(SGD(groups(0.5)), UP_AND_DOWN, None)
    resumed.load_state_dict(state)
    resumed.optimizer.add_param_group(groups(0.1)[0])
    resumed.step()

    assert state["ratios"] == [1.0]


def test_a_longer_training_warns_once_with_both_learning_rates():
    """Step 5 ends a training of six steps but is halfway up the rise of one of twenty-two."""
    schedule = OneCycle(pct_start=0.5, anneal="linear", final_div_factor=10)
    short = ScheduleLR(SGD(groups(1.0)), schedule, 6, LRBounds(0.1, 1.0))
    for _ in range(5):
        short.step()
    longer = ScheduleLR(SGD(groups(1.0)), schedule, 22, LRBounds(0.1, 1.0))

    message = r"made for 6 optimizer steps, training now has 22: .* step 5 .* lr 0.55 instead of 0.01"
    with pytest.warns(UserWarning, match=message) as caught:
        longer.load_state_dict(short.state_dict())
    assert len(caught) == 1
    assert lrs_of(longer.optimizer) == pytest.approx([0.55])


def test_a_changed_length_continues_on_the_new_length():
    """From the cut on, everything is as if the new length had been known from the start."""
    old = ScheduleLR(SGD(groups(1.0)), OneCycle(), 10)
    new, resumed = ScheduleLR(SGD(groups(1.0)), OneCycle(), 20), ScheduleLR(SGD(groups(1.0)), OneCycle(), 20)
    for _ in range(7):
        old.step()
        new.step()
    with pytest.warns(UserWarning, match="training now has 20"):
        resumed.load_state_dict(old.state_dict())

    for _ in range(15):
        assert resumed.get_last_lr() == new.get_last_lr()
        resumed.step()
        new.step()


def test_a_shorter_training_than_the_checkpoint_is_at_its_end():
    """The cut lies beyond the new end: the final learning rate is held."""
    schedule = OneCycle(anneal="linear", final_div_factor=10)
    long = ScheduleLR(SGD(groups(1.0)), schedule, 100, LRBounds(0.1, 1.0))
    for _ in range(40):
        long.step()
    shorter = ScheduleLR(SGD(groups(1.0)), schedule, 30, LRBounds(0.1, 1.0))

    with pytest.warns(UserWarning, match="lr 0.01 instead of"):
        shorter.load_state_dict(long.state_dict())
    assert lrs_of(shorter.optimizer) == pytest.approx([0.01])


def test_a_length_that_does_not_matter_is_not_warned_about():
    """A step size is a step size however long training lasts."""
    scheduler = ScheduleLR(SGD(groups(1.0)), UP_AND_DOWN, 10, BOUNDS)
    scheduler.step()
    resumed = ScheduleLR(SGD(groups(1.0)), UP_AND_DOWN, 20, BOUNDS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.load_state_dict(scheduler.state_dict())

    assert resumed.get_last_lr() == [2.0]


def test_an_endless_schedule_may_become_one_with_an_end():
    """A checkpoint without a length has no plan to compare with; its position counts."""
    endless = ScheduleLR(SGD(groups(1.0)), UP_AND_DOWN, None, BOUNDS)
    for _ in range(4):
        endless.step()
    resumed = ScheduleLR(SGD(groups(1.0)), Sweep(mode="linear"), 9)
    resumed.load_state_dict(endless.state_dict())

    assert resumed.get_last_lr() == [2.0]


# --- groups that come later -------------------------------------------------------------------------------------------


def test_a_group_added_later_gets_the_ratio_it_was_added_with():
    """Fine-tuning callbacks add groups in view of the learning rate in force, here a tenth of it."""
    optimizer = SGD(groups(1.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    take_step(optimizer, scheduler)
    optimizer.add_param_group(groups(0.2)[0])

    assert train_lrs(optimizer, scheduler, 4) == [
        pytest.approx(row) for row in ([2, 0.2], [3, 0.3], [2, 0.2], [1, 0.1])
    ]
    assert scheduler.get_last_lr() == lrs_of(optimizer)


def test_groups_added_one_after_the_other_keep_apart():
    """Each is compared with the learning rate of its own moment."""
    optimizer = SGD(groups(1.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    optimizer.add_param_group(groups(0.5)[0])
    take_step(optimizer, scheduler)
    optimizer.add_param_group(groups(0.5)[0])
    take_step(optimizer, scheduler)

    assert lrs_of(optimizer) == pytest.approx([3, 1.5, 0.75])


def test_new_bounds_reach_a_group_that_was_just_added():
    """Its ratio is to the learning rate under which it was added, the old one."""
    optimizer = SGD(groups(1.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    optimizer.add_param_group(groups(0.5)[0])
    scheduler.set_bounds(LRBounds(10.0, 50.0))

    assert lrs_of(optimizer) == pytest.approx([10.0, 5.0])


def test_added_group_follows_whoever_sets_its_learning_rate():
    """Another ratio from then on; the groups that were there from the start follow the schedule alone."""
    optimizer = SGD(groups(1.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    optimizer.add_param_group(groups(0.5)[0])
    take_step(optimizer, scheduler)
    first, late = optimizer.param_groups
    first["lr"], late["lr"] = 100.0, 0.2

    assert train_lrs(optimizer, scheduler, 3)[1:] == [pytest.approx(row) for row in ([3, 0.3], [2, 0.2])]


def test_ratio_that_was_set_by_hand_survives_a_checkpoint():
    """Also if nobody has stepped in between."""
    optimizer = SGD(groups(1.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    optimizer.add_param_group(groups(0.5)[0])
    take_step(optimizer, scheduler)
    optimizer.param_groups[1]["lr"] = 0.2
    state = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))

    other = SGD(groups(1.0))
    resumed = ScheduleLR(other, UP_AND_DOWN, None, BOUNDS)
    other.add_param_group(groups(0.7)[0])
    other.load_state_dict(state[0])
    resumed.load_state_dict(state[1])

    assert lrs_of(other) == pytest.approx([2, 0.2])
    assert train_lrs(other, resumed, 2)[1] == pytest.approx([3, 0.3])


def test_added_group_may_name_its_learning_rate_at_the_top():
    """`initial_lr` is to the configured learning rate as the group is to the others, as if there from the start."""
    optimizer = SGD(groups(4.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    optimizer.add_param_group({**groups(0.4)[0], "initial_lr": 0.4})

    assert train_lrs(optimizer, scheduler, 3)[1:] == [pytest.approx(row) for row in ([2, 0.2], [3, 0.3])]


def test_another_optimizer_may_take_the_place_of_the_first():
    """Whether a step was made is told by the one in place."""
    scheduler = ScheduleLR(SGD(groups(1.0)), UP_AND_DOWN, None, BOUNDS)
    scheduler.optimizer = SGD(groups(1.0))
    scheduler.optimizer.step()

    assert scheduler.optimizer_stepped
    assert train_lrs(scheduler.optimizer, scheduler, 2)[1] == [2.0]


@optimizers
@pytest.mark.parametrize("cut", [4, 5, 7, 8, 9])
def test_resuming_with_an_added_group_is_exact(make, cut):
    """The ratio is part of the state: learning rates, momenta and weights are the same numbers."""

    def unfreezing(optimizer, scheduler, first, last):
        rows = []
        for step in range(first, last):
            if step == 3 and len(optimizer.param_groups) == 1:
                optimizer.add_param_group(groups(0.005)[0])
            rows += train(optimizer, scheduler, 1)
        return rows

    optimizer = make(groups(0.1))
    whole = unfreezing(optimizer, ScheduleLR(optimizer, OneCycle(), 8), 0, 10)
    before = make(groups(0.1))
    scheduler = ScheduleLR(before, OneCycle(), 8)
    unfreezing(before, scheduler, 0, cut)
    state = saved_and_loaded(optimizer=before, scheduler=scheduler)
    after = make(copy.deepcopy([{"params": group["params"]} for group in before.param_groups]))
    resumed = ScheduleLR(after, OneCycle(), 8)
    after.load_state_dict(state["optimizer"])
    resumed.load_state_dict(state["scheduler"])

    assert unfreezing(after, resumed, cut, 10) == whole[cut:]


def test_a_checkpoint_right_after_the_addition_knows_the_ratio():
    """Before the scheduler has stepped, the state already has what its next step would have found."""
    optimizer = SGD(groups(1.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    take_step(optimizer, scheduler)
    optimizer.add_param_group(groups(0.5)[0])
    after = SGD(groups(1.0, 77.0))
    resumed = ScheduleLR(after, UP_AND_DOWN, None, BOUNDS)
    after.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())

    assert train_lrs(after, resumed, 3) == train_lrs(optimizer, scheduler, 3) == [[2, 0.5], [3, 0.75], [2, 0.5]]


def test_a_resumed_run_may_add_its_group_again():
    """A callback that unfreezes after resuming gets the ratio of the checkpoint."""
    optimizer = SGD(groups(1.0))
    scheduler = ScheduleLR(optimizer, UP_AND_DOWN, None, BOUNDS)
    optimizer.add_param_group(groups(0.5)[0])
    take_step(optimizer, scheduler)
    resumed = ScheduleLR(SGD(groups(1.0)), UP_AND_DOWN, None, BOUNDS)
    resumed.load_state_dict(scheduler.state_dict())

    assert resumed.get_last_lr() == [2.0]
    resumed.optimizer.add_param_group(groups(77.0)[0])
    resumed.step()
    assert lrs_of(resumed.optimizer) == [3.0, 1.5]


# --- steps that happened ----------------------------------------------------------------------------------------------


def test_the_scheduler_notes_the_optimizers_step():
    """True between a step of the optimizer and the next step of the scheduler."""
    optimizer = SGD(groups(0.1))
    scheduler = ScheduleLR(optimizer, OneCycle(), 10)

    assert scheduler.optimizer_stepped is False
    optimizer.step()
    assert scheduler.optimizer_stepped is True
    scheduler.step()
    assert scheduler.optimizer_stepped is False


@pytest.mark.parametrize("fused", [False, True], ids=["skipped by the scaler", "skipped in the kernel"])
def test_a_step_skipped_by_mixed_precision_did_not_happen(fused):
    """A gradient of infinity: the scaler, or the fused optimizer itself, changes no weight."""
    optimizer = SGD([weight()], lr=0.1, fused=fused)
    (parameter,) = optimizer.param_groups[0]["params"]
    scheduler = ScheduleLR(optimizer, OneCycle(), 10)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    stepped = []
    for factor in (1.0, math.inf, 1.0):
        before = parameter.item()
        optimizer.zero_grad()
        scaler.scale((parameter * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        stepped.append(scheduler.optimizer_stepped)
        assert stepped[-1] is (parameter.item() != before)
        scheduler.step()

    assert stepped == [True, False, True]


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ScheduleLR([weight()], OneCycle(), 10), TypeError, "`optimizer` must be a torch Optimizer"),
        (lambda: ScheduleLR(SGD(groups(0.1)), OneCycle(), None), ValueError, "how long training lasts"),
        (lambda: ScheduleLR(SGD(groups(0.1)), Cyclic(), None), ValueError, "how long training lasts"),
        (lambda: ScheduleLR(SGD(groups(0.1)), OneCycle(), 0), ValueError, "`total_steps` must be at least 1"),
        (lambda: ScheduleLR(SGD(groups(0.1)), OneCycle(), math.inf), ValueError, "`total_steps` must .* finite"),
        (lambda: ScheduleLR(SGD(groups(0.0, 0.0)), OneCycle(), 10), ValueError, "positive in at least one"),
    ],
    ids=["no optimizer", "no total", "no total for cycles", "total 0", "endless", "learning rates of zero"],
)
def test_what_cannot_work_is_refused(make, error, message):
    """Before the first step, with a reason."""
    with pytest.raises(error, match=message):
        make()
