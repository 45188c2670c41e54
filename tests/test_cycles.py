"""The end of a cycle: which step it is, and that what waits for it happens there."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_lightning import Callback, callbacks
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_clr import Cyclic, LRBounds, LRRangeTest, OneCycle, Schedule, ScheduleLR
from support.data import loader
from support.models import Scheduled
from support.training import LRs, quiet_trainer

BOUNDS = LRBounds(0.1, 0.5)


def ends(schedule, total_steps, steps=None):
    return [step for step in range(steps or total_steps) if schedule.ends_cycle(step, total_steps)]


def lowest_steps(lrs):
    """By looking: the steps to which the learning rate falls and after which it rises; the first of two alike."""
    return [step for step in range(1, len(lrs) - 1) if lrs[step - 1] > lrs[step] <= lrs[step + 1]]


lengths = st.integers(1, 30)


@given(up=lengths, down=lengths, cycles=st.integers(1, 5), rest=st.integers(0, 59), known=st.booleans())
def test_cycles_of_a_given_size_end_at_base_lr(up, down, cycles, rest, known):
    """Wherever training ends: a cycle that is broken off has no end."""
    total = cycles * (up + down) + 1 + rest % (up + down)
    schedule = Cyclic(step_size=up, step_size_down=down)
    lrs = [schedule.lr(step, total, BOUNDS) for step in range(total)]

    found = ends(schedule, total if known else None, total)

    assert found == [step for step in range(1, total) if lrs[step] == BOUNDS.base_lr]
    assert len(found) == cycles


@given(cycles=st.integers(1, 8), half=lengths, mode=st.sampled_from(["triangular", "triangular2", "exp_range"]))
def test_whole_cycles_end_at_base_lr(cycles, half, mode):
    """Where training is a whole number of steps per cycle, in every mode; the last step of training is one."""
    total = 2 * half * cycles + 1
    schedule = Cyclic(cycles=cycles, mode=mode, gamma=0.99)

    found = ends(schedule, total)

    assert [schedule.lr(step, total, BOUNDS) for step in found] == cycles * [BOUNDS.base_lr]
    assert found == list(range(2 * half, total, 2 * half))


@given(cycles=st.integers(1, 8), total=st.integers(1, 300))
def test_cycles_end_where_the_learning_rate_is_lowest(cycles, total):
    """Also where no step falls on the foot; and at the last step, come what may."""
    schedule = Cyclic(cycles=cycles)
    found = ends(schedule, total)

    assert found[-1] == total - 1
    if total > 2 * cycles:  # else there are steps without a cycle between them
        assert found == [*lowest_steps([schedule.lr(step, total, BOUNDS) for step in range(total)]), total - 1]
        assert len(found) == cycles


ONE_CYCLES = [OneCycle(), OneCycle(three_phase=True), OneCycle(anneal="smith", pct_start=0.45, final_div_factor=1000)]


@pytest.mark.parametrize("schedule", ONE_CYCLES, ids=["cos", "three phases", "smith"])
@pytest.mark.parametrize("total", [1, 2, 20, 101])
def test_one_cycle_ends_with_training(schedule, total):
    """The dip to zero in Smith's shape is no end: the tail belongs to the cycle."""
    assert ends(schedule, total, total + 5) == [total - 1]


def test_a_policy_of_ones_own_is_one_cycle_unless_it_says_otherwise():
    class Constant(Schedule):
        def lr(self, step, total_steps, bounds):
            return bounds.max_lr

    assert ends(Constant(), 7) == [6]
    assert ends(Constant(), None, 7) == []


def test_no_cycle_ends_after_training():
    """The last learning rate is held, but that is no end once more."""
    assert ends(Cyclic(step_size=2), 9, 20) == [4, 8]
    assert ends(Cyclic(cycles=2), 9, 20) == [4, 8]


def test_scheduler_tells_that_the_step_made_last_was_at_base_lr():
    """After the advance that follows it, until the next."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = ScheduleLR(optimizer, Cyclic(step_size=2), None, BOUNDS)
    told = [scheduler.at_cycle_end]
    made_at = []
    for _ in range(9):
        made_at += scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
        told.append(scheduler.at_cycle_end)

    assert told == [step in (5, 9) for step in range(10)]  # after five and after nine steps
    assert made_at[4] == made_at[8] == 0.1


def test_position_after_resuming_tells_the_same():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    first, resumed = (ScheduleLR(optimizer, Cyclic(cycles=2), 9, BOUNDS) for _ in range(2))
    first.step(5)
    resumed.load_state_dict(first.state_dict())

    assert first.at_cycle_end
    assert resumed.at_cycle_end


# --- the recipes of the pages -----------------------------------------------------------------------------------------


def recipe(name):
    """A class of the page on callbacks, as it stands there."""
    page = (Path(__file__).parents[1] / "docs" / "callbacks.md").read_text()
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"class {name}(" in block]
    names = {}
    classes = re.split(r"^(?:snapshots|trainer) = ", block, flags=re.MULTILINE)[0]
    exec(compile(classes, "callbacks.md", "exec"), names)
    return names[name]


class Notes(LRs):
    """Also the weights after each optimizer step."""

    def __init__(self):
        super().__init__()
        self.heads = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step == len(self.heads) + 1:
            self.heads.append(pl_module.head.weight.detach().clone())


def train(schedule, *neighbours, module=Scheduled, **arguments):
    """Four epochs of sixteen batches."""
    notes = Notes()
    checkpointing = any(isinstance(neighbour, ModelCheckpoint) for neighbour in neighbours)
    arguments = {"max_epochs": 4, "enable_checkpointing": checkpointing, **arguments}
    trainer = quiet_trainer(**arguments, callbacks=[*neighbours, notes])
    net = module(schedule=schedule, lr_bounds=BOUNDS)
    trainer.fit(net, loader(), loader(32))
    return trainer, net, notes


def snapshots(folder="ckpt"):
    """The checkpoints there, by the number of steps made."""
    files = {int(re.search(r"step=(\d+)", path.name)[1]): path for path in Path(folder).iterdir()}
    return {step: torch.load(files[step], weights_only=True) for step in sorted(files)}


CYCLES = {
    "given size": (Cyclic(step_size=7), {}, [15, 29, 43, 57]),
    "other way down": (Cyclic(step_size=8, step_size_down=3), {}, [12, 23, 34, 45, 56]),
    "in whole cycles": (Cyclic(cycles=3), {"max_steps": 61}, [21, 41, 61]),
    "accumulated": (Cyclic(step_size=3), {"accumulate_grad_batches": 3}, [7, 13, 19]),
    "halved": (Cyclic(cycles=2, mode="triangular2"), {"max_steps": 41}, [21, 41]),
}


@pytest.mark.parametrize(("schedule", "arguments", "steps"), CYCLES.values(), ids=CYCLES.keys())
def test_snapshots_are_taken_after_the_steps_at_base_lr(schedule, arguments, steps):
    """And hold the weights that those steps have left."""
    checkpoint = recipe("CycleCheckpoint")("ckpt", every_n_train_steps=1, save_top_k=-1)

    _, _, notes = train(schedule, checkpoint, **arguments)

    saved = snapshots()
    assert list(saved) == steps
    assert [notes.seen[step - 1] for step in steps] == pytest.approx(len(steps) * [BOUNDS.base_lr], rel=1e-12)
    assert [step + 1 for step, lr in enumerate(notes.seen) if lr <= BOUNDS.base_lr * (1 + 1e-12)] == [1, *steps]
    for step, state in saved.items():
        assert torch.equal(state["state_dict"]["head.weight"], notes.heads[step - 1])


def test_snapshot_of_one_cycle_is_the_last():
    """At the end of the annihilation."""
    _, net, notes = train(OneCycle(), recipe("CycleCheckpoint")("ckpt", every_n_train_steps=1, save_top_k=-1))

    (state,) = snapshots().values()
    assert min(notes.seen) == notes.seen[-1] == pytest.approx(1e-5)
    assert torch.equal(state["state_dict"]["head.weight"], net.head.weight)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.filterwarnings("ignore:.*exists and is not empty")
def test_resumed_training_takes_the_snapshots_that_are_left():
    """Not that again from which it resumes."""

    def checkpoint():
        return recipe("CycleCheckpoint")("ckpt", every_n_train_steps=1, save_top_k=-1)

    train(Cyclic(cycles=3), checkpoint(), max_steps=61)
    for step in (41, 61):
        next(Path("ckpt").glob(f"*step={step}.ckpt")).unlink()
    notes, net = Notes(), Scheduled(schedule=Cyclic(cycles=3))
    trainer = quiet_trainer(max_epochs=4, max_steps=61, enable_checkpointing=True, callbacks=[checkpoint(), notes])
    trainer.fit(net, loader(), loader(32), ckpt_path=next(Path("ckpt").glob("*step=21.ckpt")))

    assert list(snapshots()) == [21, 41, 61]
    assert len(notes.seen) == 40
    assert [notes.seen[step - 22] for step in (41, 61)] == pytest.approx([BOUNDS.base_lr] * 2)


def test_snapshots_come_at_the_base_lr_that_a_range_test_has_found():
    """The sweep takes none."""
    test = LRRangeTest(num_steps=30)

    train(Cyclic(cycles=3), test, recipe("CycleCheckpoint")("ckpt", every_n_train_steps=1, save_top_k=-1), max_steps=61)

    saved = snapshots()
    assert list(saved) == [21, 41, 61]
    assert saved[61]["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(test.result.bounds.base_lr)


class Worsening(Scheduled):
    """Its metric is best after the first epoch."""

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", 1.0 / (1 + self.current_epoch))


STOPS = {
    "after the next end": (Cyclic(step_size=11), {}, 45),
    "with validation four times an epoch": (Cyclic(step_size=11), {"val_check_interval": 4}, 45),
    "at once, if told at an end": (Cyclic(step_size=16, step_size_down=15), {}, 32),
    "accumulated": (Cyclic(step_size=5), {"accumulate_grad_batches": 2}, 21),
    "no end is left": (Cyclic(step_size=50), {}, 64),
}


@pytest.mark.parametrize(("schedule", "arguments", "steps"), STOPS.values(), ids=STOPS.keys())
def test_training_stops_after_a_step_at_base_lr(schedule, arguments, steps):
    """It is told to stop after the second epoch, that is after 32 steps (16, if two batches make one)."""
    stopping = recipe("StopAtCycleEnd")("val_acc", mode="max", patience=1, check_on_train_epoch_end=True)

    trainer, _, notes = train(schedule, stopping, module=Worsening, **arguments)

    assert trainer.global_step == len(notes.seen) == steps
    assert notes.seen[-1] == BOUNDS.base_lr or steps == 64


def test_training_that_others_stop_stops_at_once():
    """The recipe holds back nobody else."""

    class Impatient(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.should_stop or trainer.global_step == 5

    stopping = recipe("StopAtCycleEnd")("val_acc", mode="max", check_on_train_epoch_end=True)

    trainer, *_ = train(Cyclic(step_size=7), stopping, Impatient(), module=Worsening)

    assert trainer.global_step == 5


@pytest.mark.skipif(not hasattr(callbacks, "WeightAveraging"), reason="came with Lightning 2.6")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_average_is_that_of_the_cycles_ends(accumulated):
    """The plain mean of the weights after the steps at `base_lr`; training ends with it."""
    schedule, ends_at = Cyclic(step_size=7), [15, 29, 43, 57] if accumulated == 1 else [15, 29]

    _, net, notes = train(schedule, recipe("CycleAveraging")(), accumulate_grad_batches=accumulated)

    mean = torch.stack([notes.heads[step - 1] for step in ends_at]).mean(0)
    assert torch.allclose(net.head.weight, mean, atol=1e-6)
    assert not torch.allclose(net.head.weight, notes.heads[-1], atol=1e-3)
