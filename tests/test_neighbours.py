"""Other callbacks beside the range test: each does what it does without one, before or after it in the list."""

import functools
import itertools
import os
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, Trainer, callbacks, seed_everything
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.loggers import Logger
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LinearLR, OneCycleLR, SequentialLR, StepLR
from torch.utils.data import DataLoader

from lightning_clr import Cyclic, LRBounds
from support.data import blobs, loader
from support.exactness import SWEEP, AfterTrial, Witness, files_in
from support.models import Plain, Scheduled
from support.training import LRs, quiet_trainer

pytestmark = pytest.mark.usefixtures("little_garbage")

BOUNDS = LRBounds(0.01, 0.1)  # those that AfterTrial hands over
AVERAGING = pytest.mark.skipif(not hasattr(callbacks, "EMAWeightAveraging"), reason="came with Lightning 2.6")
PLACES = ["before", "after"]


class Net(Scheduled):
    """Twenty batches of eight; data, batch size and learning rate where Lightning's finders look for them."""

    batch_size = 8

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.lr = 0.1

    def train_dataloader(self):
        return DataLoader(blobs(160), self.batch_size, shuffle=True)

    def val_dataloader(self):
        return loader(32)


class Normed(Net):
    """With batch normalization."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.norm = torch.nn.BatchNorm1d(16)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x))))


class Frozen(Net):
    """Only the head is in the optimizer at first."""

    @property
    def backbone(self):
        return self.body

    def configure_optimizers(self):
        return self.with_schedule(torch.optim.SGD(self.head.parameters(), lr=0.1, momentum=0.9))


class Lines(Logger):
    """Writes down what is logged, a line a call, but not the range test's own."""

    name = version = "lines"

    def log_metrics(self, metrics, step=None):
        if "lr_range_test/max_lr" not in metrics:
            with open("lines.txt", "a") as file:
                file.write(f"{step} {metrics}\n")

    def log_hyperparams(self, params):
        pass


class NoTest(Callback):
    """Stands where the range test stands."""


@dataclass
class Run:
    """What a training has left."""

    trace: list
    trainer: Trainer
    net: Net
    test: Callback
    neighbour: Callback
    lrs: list


def fit(make, place=None, module=Net, schedule=None, **arguments):
    """Train with neighbours before or after the test; without a place, with the bounds given by hand and no test."""
    home, folder = Path.cwd(), Path.cwd() / "run"  # the same one for all, since checkpoints hold its name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    seed_everything(7)
    net = module(schedule=schedule, lr_bounds=BOUNDS if place is None else None)
    test, neighbours, lrs, witness = NoTest() if place is None else AfterTrial(**SWEEP), make(), LRs(), Witness()
    ordered = [*neighbours, test] if place == "before" else [test, *neighbours]
    checkpointing = any(isinstance(neighbour, ModelCheckpoint) for neighbour in neighbours)
    arguments = {"max_epochs": 3, "enable_checkpointing": checkpointing, **arguments}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SWA is currently only supported every epoch")
        trainer = quiet_trainer(**arguments, callbacks=[*ordered, lrs, witness])
        trainer.fit(net)
    trace = [entry for entry in witness.trace if entry[0] != "callbacks"] + [("files", files_in(folder))]
    os.chdir(home)
    return Run(trace, trainer, net, test, neighbours[0], lrs.of_groups)


NEIGHBOURS = {
    "ModelCheckpoint, per step": (lambda: [ModelCheckpoint("ckpt", every_n_train_steps=7, save_top_k=-1)], {}),
    "ModelCheckpoint, the best": (lambda: [ModelCheckpoint("ckpt", monitor="val_acc", mode="max", save_last=True)], {}),
    "EarlyStopping, per epoch": (
        lambda: [EarlyStopping("train_loss", patience=1, min_delta=9.0, check_on_train_epoch_end=True)],
        {},
    ),
    "EarlyStopping, in validation": (
        lambda: [EarlyStopping("val_acc", mode="max", patience=2, min_delta=9.0)],
        {"val_check_interval": 5},
    ),
    "StochasticWeightAveraging": (lambda: [StochasticWeightAveraging(0.05, 2)], {}),
    "StochasticWeightAveraging from the start": (lambda: [StochasticWeightAveraging(0.05, 1)], {}),
    "StochasticWeightAveraging, BatchNorm": (lambda: [StochasticWeightAveraging(0.05, 2)], {"module": Normed}),
    "BackboneFinetuning": (lambda: [BackboneFinetuning(1)], {"module": Frozen}),
    "BackboneFinetuning from the start": (lambda: [BackboneFinetuning(0)], {"module": Frozen}),
    "GradientAccumulationScheduler": (lambda: [GradientAccumulationScheduler({0: 4, 2: 2})], {}),
    "BatchSizeFinder": (lambda: [BatchSizeFinder(steps_per_trial=1, max_trials=4)], {}),
    "BatchSizeFinder, binsearch": (lambda: [BatchSizeFinder("binsearch", steps_per_trial=1, max_trials=4)], {}),
    "LearningRateFinder": (lambda: [LearningRateFinder(num_training_steps=12, update_attr=False)], {}),
    "ModelPruning": (lambda: [ModelPruning("l1_unstructured", amount=0.3)], {}),
    "ModelPruning, lottery ticket": (
        lambda: [ModelPruning("l1_unstructured", amount=0.3, use_lottery_ticket_hypothesis=True)],
        {},
    ),
    "LearningRateMonitor": (
        lambda: [LearningRateMonitor("step", log_momentum=True)],
        {"logger": Lines, "log_every_n_steps": 1},
    ),
    "Timer": (lambda: [Timer("00:01:00:00")], {}),
    "several": (
        lambda: [
            StochasticWeightAveraging(0.05, 2),
            BatchSizeFinder(steps_per_trial=1, max_trials=3),
            ModelCheckpoint("ckpt", every_n_train_steps=7, save_top_k=-1),
            EarlyStopping("val_acc", mode="max", patience=1, min_delta=9.0),
        ],
        {},
    ),
}
AVERAGES = {
    "EMAWeightAveraging": (lambda: [callbacks.EMAWeightAveraging(decay=0.9)], {}),
    "WeightAveraging": (lambda: [callbacks.WeightAveraging()], {"module": Normed}),
}


def outcomes(make, arguments):
    """The traces of the run with bounds given by hand, and of those with the test in either place."""
    for place in (None, *PLACES):
        made = {name: value() if name == "logger" else value for name, value in arguments.items()}
        yield fit(make, place, **made).trace


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        pytest.param(*neighbour, marks=[] if name == "several" else [pytest.mark.exhaustive], id=name)
        for name, neighbour in NEIGHBOURS.items()
    ],
)
def test_neighbour_does_what_it_does_without_the_test(make, arguments):
    """Weights, batches, learning rates, metrics, states and files are those of a run that was given the bounds."""
    by_hand, before, after = outcomes(make, arguments)

    assert before == by_hand
    assert after == by_hand


@AVERAGING
@pytest.mark.parametrize(("make", "arguments"), AVERAGES.values(), ids=AVERAGES.keys())
def test_averages_have_not_seen_the_sweep(make, arguments):
    """The averaged weights, which the module ends with, are those of a run that was given the bounds."""
    by_hand, before, after = outcomes(make, arguments)

    assert before == by_hand
    assert after == by_hand


@pytest.mark.parametrize("place", PLACES)
def test_checkpoints_count_the_steps_of_training(place):
    run = fit(lambda: [ModelCheckpoint("ckpt", every_n_train_steps=25, save_top_k=-1)], place)

    assert {path.name for path in Path("run/ckpt").iterdir()} == {"epoch=1-step=25.ckpt", "epoch=2-step=50.ckpt"}
    assert run.neighbour.best_model_path.endswith("step=50.ckpt")


@pytest.mark.parametrize("place", PLACES)
def test_early_stopping_counts_the_epochs_of_training(place):
    """Nothing improves by nine, so that it stops after the second epoch."""
    run = fit(NEIGHBOURS["EarlyStopping, per epoch"][0], place)

    assert (run.neighbour.stopped_epoch, run.trainer.global_step) == (1, 40)


@pytest.mark.parametrize("place", PLACES)
def test_range_test_comes_after_the_batch_size_is_found(place):
    """It runs once, in batches of the size found, and the schedule has the length that training then has."""
    sizes = []

    class Measured(Net):
        def training_step(self, batch, batch_idx):
            sizes.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    run = fit(lambda: [BatchSizeFinder(steps_per_trial=1, max_trials=4)], place, module=Measured)

    assert run.neighbour.optimal_batch_size == run.net.batch_size == 16
    assert (len(run.test.found), run.test.ran) == (1, 14)
    tested = 14 + 2 + 5 + 3  # a sweep, the untrained network, and two short runs
    assert sizes[4:] == tested * [16] + 30 * [16]
    assert run.net.lr_schedulers().total_steps == run.trainer.global_step == 30
    assert run.lrs[-1] == pytest.approx([1e-6])  # the end of 1cycle


def test_schedule_has_the_length_of_the_batch_size_found_without_a_range_test_too():
    run = fit(lambda: [BatchSizeFinder(steps_per_trial=1, max_trials=4)])

    assert run.net.lr_schedulers().total_steps == run.trainer.global_step == 30


def test_total_steps_that_were_given_stay():
    """Whatever the batch size."""

    class Given(Net):
        def configure_optimizers(self):
            return self.with_schedule(Plain.configure_optimizers(self), total_steps=50)

    run = fit(lambda: [BatchSizeFinder(steps_per_trial=1, max_trials=4)], "after", module=Given)

    assert run.net.lr_schedulers().total_steps == 50


@pytest.mark.parametrize("place", [None, *PLACES])
def test_lightnings_finder_does_not_reach_the_schedule(place):
    """Training starts at `base_lr` all the same, and the attribute ends with what the range test has found."""
    run = fit(lambda: [LearningRateFinder(num_training_steps=30)], place)

    assert len(run.neighbour.optimal_lr.results["lr"]) == 30
    assert run.lrs[0] == pytest.approx([0.01])
    assert run.net.lr == (run.neighbour.optimal_lr.suggestion() if place is None else 0.1)


TORCH = {
    "StepLR": lambda optimizer: StepLR(optimizer, 50),
    "warm-up": lambda optimizer: SequentialLR(optimizer, [LinearLR(optimizer, 0.1), StepLR(optimizer, 50)], [5]),
    "CyclicLR": lambda optimizer: CyclicLR(optimizer, [0.01, 0.001], [0.1, 0.01]),
    "none": lambda optimizer: None,
}


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:TwoGroups has the CLRMixin, but no schedule")
@pytest.mark.parametrize("make", TORCH.values(), ids=TORCH.keys())
def test_lightnings_finder_does_not_mislead_other_schedulers(make):
    """Two groups start as they do with the range test alone; the finder alone makes them alike."""

    class TwoGroups(Net):
        def configure_optimizers(self):
            groups = [{"params": self.head.parameters()}, {"params": self.body.parameters(), "lr": 0.01}]
            optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
            scheduler = make(optimizer)
            return optimizer if scheduler is None else {"optimizer": optimizer, "lr_scheduler": scheduler}

    alone = fit(lambda: [Timer()], "after", module=TwoGroups)
    runs = [fit(lambda: [LearningRateFinder(num_training_steps=30)], place, module=TwoGroups) for place in PLACES]

    assert runs[0].lrs == runs[1].lrs == alone.lrs
    assert alone.lrs[0][1] / alone.lrs[0][0] == pytest.approx(0.1)


@pytest.mark.filterwarnings("ignore:InTensors has the CLRMixin, but no schedule")
def test_lightnings_finder_leaves_tensors_in_their_place():
    """Compiled steps hold on to them: training has the very tensors it was configured with, and their ratio."""

    class InTensors(Net):
        def configure_optimizers(self):
            self.tensors = [torch.tensor(0.1), torch.tensor(0.01)]
            parts = zip((self.head, self.body), self.tensors, strict=True)
            groups = [{"params": part.parameters(), "lr": lr} for part, lr in parts]
            return torch.optim.SGD(groups, lr=0.1, foreach=False)

    for place in PLACES:
        run = fit(lambda: [LearningRateFinder(num_training_steps=30)], place, module=InTensors)

        first, second = (group["lr"] for group in run.trainer.optimizers[0].param_groups)
        assert first is run.net.tensors[0]
        assert second is run.net.tensors[1]
        assert float(second / first) == pytest.approx(0.1)


def test_lightnings_finder_and_the_test_see_the_same_model():
    """The finder's curve is the one that it records alone."""
    curves = [fit(lambda: [LearningRateFinder(num_training_steps=12)], place).neighbour for place in (None, *PLACES)]

    assert curves[0].optimal_lr.results == curves[1].optimal_lr.results == curves[2].optimal_lr.results


@pytest.mark.parametrize("tested", [False, True])
@pytest.mark.parametrize(
    "finder",
    [lambda: BatchSizeFinder(steps_per_trial=1, max_trials=2), lambda: LearningRateFinder(num_training_steps=5)],
    ids=["BatchSizeFinder", "LearningRateFinder"],
)
def test_lightnings_finders_forget_a_resume(finder, tested):
    """Training starts over, with the test or without: another three epochs, instead of the two that are left."""
    first = quiet_trainer(max_epochs=1, callbacks=[AfterTrial(**SWEEP)] if tested else [])
    first.fit(Net())
    first.save_checkpoint("first.ckpt")

    lrs, net = LRs(), Net()
    trainer = quiet_trainer(max_epochs=3, callbacks=[finder(), lrs, *([AfterTrial(**SWEEP)] if tested else [])])
    trainer.fit(net, ckpt_path="first.ckpt")

    assert len(lrs.seen) == 3 * 160 / net.batch_size


@pytest.mark.parametrize("place", PLACES)
def test_stochastic_weight_averaging_takes_the_schedule_over(place):
    """The bounds hold until its first epoch; from then on each epoch is nearer to its own learning rate."""
    run = fit(lambda: [StochasticWeightAveraging(0.05, 2)], place)
    lrs = [lr for (lr,) in run.lrs]

    assert type(run.trainer.lr_scheduler_configs[0].scheduler).__name__ == "SWALR"
    assert (lrs[0], max(lrs)) == pytest.approx((0.01, 0.1), rel=0.02)
    assert [len(set(lrs[start : start + 20])) for start in (0, 20, 40)] == [20, 1, 1]
    assert lrs[20] > lrs[40] > 0.05


def test_resuming_after_the_schedule_was_replaced_tells_the_same_learning_rate():
    """`lr` is still `max_lr`, although no schedule is there any more."""

    def make():
        return [StochasticWeightAveraging(0.05, 2), ModelCheckpoint("ckpt", save_top_k=-1)]

    first = fit(make, "after")
    test, resumed = AfterTrial(**SWEEP), Net()
    trainer = quiet_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[test, *make()])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*SWA is currently only supported|The dirpath has changed")
        trainer.fit(resumed, ckpt_path="run/ckpt/epoch=1-step=40.ckpt")

    assert test.ran == 0
    assert first.net.lr == resumed.lr == 0.1


@pytest.mark.parametrize("place", PLACES)
def test_backbone_joins_below_the_head_and_catches_up(place):
    """A tenth of the head's learning rate, twice that at each later epoch, and within an epoch by the schedule."""
    run = fit(
        lambda: [BackboneFinetuning(1, backbone_initial_ratio_lr=0.1, should_align=False)],
        place,
        module=Frozen,
        schedule=Cyclic(step_size=10),
        max_epochs=4,
    )

    assert {len(lrs) for lrs in run.lrs[:20]} == {1}
    for epoch, ratio in (1, 0.1), (2, 0.2), (3, 0.4):
        lrs = run.lrs[20 * epoch :][:20]
        assert [body / head for head, body in lrs] == pytest.approx(20 * [ratio])
        assert [head for head, _ in lrs[:11]] == pytest.approx([0.01 + 0.009 * step for step in range(11)])


@pytest.mark.parametrize("place", PLACES)
def test_backbone_does_not_overtake_the_head(place):
    """Aligned with it, the backbone follows the head's schedule."""
    run = fit(lambda: [BackboneFinetuning(1, backbone_initial_ratio_lr=0.5)], place, module=Frozen)
    ratios = [body / head for head, body in run.lrs[20:]]

    assert ratios[:20] == pytest.approx(20 * [0.5])
    assert ratios[20:] == pytest.approx(20 * [1.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: CyclicLR(optimizer, 0.01, 0.1),
        lambda optimizer: OneCycleLR(optimizer, 0.1, 60),
        lambda optimizer: LambdaLR(optimizer, lambda step: 1.0),
    ],
    ids=["CyclicLR", "OneCycleLR", "LambdaLR"],
)
def test_no_group_can_join_under_some_of_torchs_schedulers(make):
    """There is no range test here."""

    class UnderTorch(Frozen):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.head.parameters(), lr=0.1, momentum=0.9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), "interval": "step"}}

    with pytest.raises((ValueError, KeyError)):
        fit(lambda: [BackboneFinetuning(1)], module=UnderTorch)


def test_backbone_goes_on_when_training_resumes():
    """At the learning rates of the training that was not interrupted."""

    def make():
        return [BackboneFinetuning(1), ModelCheckpoint("ckpt", save_top_k=-1)]

    whole = fit(make, "after", module=Frozen)
    lrs, resumed = LRs(), Frozen()
    trainer = quiet_trainer(max_epochs=3, enable_checkpointing=True, callbacks=[AfterTrial(**SWEEP), *make(), lrs])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The dirpath has changed")
        trainer.fit(resumed, ckpt_path="run/ckpt/epoch=1-step=40.ckpt")

    assert lrs.of_groups == whole.lrs[40:]
    assert {len(rates) for rates in lrs.of_groups} == {2}


# --- the finetuning-scheduler package ---------------------------------------------------------------------------------


@functools.cache
def finetuned_class():
    """A module of the package that finetuning-scheduler is made for."""
    from lightning.pytorch import LightningModule

    from lightning_clr import CLRMixin

    class Finetuned(CLRMixin, LightningModule):
        def __init__(self, whole, **arguments):
            super().__init__(schedule=Cyclic(cycles=1), **arguments)
            self.whole = whole
            self.body, self.head = torch.nn.Linear(8, 16), torch.nn.Linear(16, 3)
            self.lrs = []

        forward = Plain.forward
        loss = Plain.loss

        def training_step(self, batch, batch_idx):
            self.lrs.append([group["lr"] for group in self.optimizers().param_groups])
            return self.loss(batch)

        def validation_step(self, batch, batch_idx):
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self):
            trained = self if self.whole else self.head
            return self.with_schedule(torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9))

    return Finetuned


def finetune(place, phase, whole=False, **arguments):
    """The head in the first of three epochs of six steps, the body from then on."""
    fts = pytest.importorskip("finetuning_scheduler", reason="the package finetuning-scheduler is not installed")
    from lightning.pytorch import Trainer

    schedule = {
        0: {"params": ["head.weight", "head.bias"], "max_transition_epoch": 1},
        1: {"params": ["body.weight", "body.bias"], **phase},
    }
    shutil.rmtree("ckpt", ignore_errors=True)
    seed_everything(7)
    test = NoTest() if place is None else AfterTrial(**SWEEP)
    neighbours = [
        fts.FinetuningScheduler(schedule, **{"allow_untested": True, **arguments}),
        fts.FTSCheckpoint("ckpt", monitor="val_loss"),
        fts.FTSEarlyStopping("val_loss", patience=9),
    ]
    net = finetuned_class()(whole, lr_bounds=BOUNDS if place is None else None)
    trainer = quiet_trainer(
        Trainer,
        max_epochs=3,
        enable_checkpointing=True,
        callbacks=[*neighbours, test] if place == "before" else [test, *neighbours],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the scheduler is untested there, and more of its own
        trainer.fit(net, loader(96), loader(32))
    return trainer, net, net.lrs[-18:]


STEP_LR = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05, "momentum": 0.9}}
PHASES = {
    "thawing": ({"lr": 0.01}, {}),
    "thawing, from the last weights": ({"lr": 0.01}, {"restore_best": False}),
    "thawing, an optimizer of everything": ({"lr": 0.01}, {"whole": True}),
    "another scheduler": (
        {"lr": 0.01, "new_lr_scheduler": {"lr_scheduler_init": STEP_LR, "init_pg_lrs": [0.05, 0.005]}},
        {},
    ),
    "another optimizer": ({"lr": 0.01, "new_optimizer": {"optimizer_init": SGD}}, {}),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize(("phase", "arguments"), PHASES.values(), ids=PHASES.keys())
def test_scheduled_thawing_is_what_it_is_without_the_test(phase, arguments):
    """Learning rates of all groups, and the weights."""
    (_, by_hand, lrs), *others = (finetune(place, phase, **arguments) for place in (None, *PLACES))

    for _, net, other_lrs in others:
        assert other_lrs == lrs
        assert all(map(torch.equal, by_hand.parameters(), net.parameters()))


@pytest.mark.parametrize("arguments", [{}, {"whole": True}], ids=["head", "everything"])
def test_thawed_group_follows_the_schedule(arguments):
    """Its `lr` of 0.01 is a tenth of the optimizer's, whenever it joins; the first step is at just that."""
    _, _, lrs = finetune("after", {"lr": 0.01}, **arguments)

    assert [len(row) for row in lrs] == 6 * [1] + 12 * [2]
    assert lrs[6][1] == 0.01
    assert [body / head for head, body in lrs[7:]] == pytest.approx(11 * [0.1])
    assert (lrs[0], lrs[-1]) == ([0.01], pytest.approx([0.01, 0.001]))


def test_schedule_goes_on_with_another_optimizer():
    """Up and down once in eighteen steps, over both."""
    _, _, lrs = finetune("after", PHASES["another optimizer"][0])
    head = [row[0] for row in lrs]

    assert all(one < other for one, other in itertools.pairwise(head[:9]))
    assert head[9:] == pytest.approx(head[8::-1])


def test_another_scheduler_moves_as_its_own_arguments_say():
    """It knows nothing of the bounds."""
    trainer, _, lrs = finetune("after", PHASES["another scheduler"][0])

    assert type(trainer.lr_scheduler_configs[0].scheduler).__name__ == "StepLR"
    assert lrs[6:] == 6 * [[0.05, 0.005]] + 6 * [[0.025, 0.0025]]


@pytest.mark.filterwarnings("ignore:.*not currently supported by FinetuningScheduler")
def test_schedules_are_refused_there_unless_allowed():
    """finetuning-scheduler wants to be told that a scheduler which it does not know is meant."""
    with pytest.raises(Exception, match="pass ``allow_untested=True`` to the FinetuningScheduler callback"):
        finetune("after", {"lr": 0.01}, allow_untested=False)
