"""Training after a range test equals training that never had one, bit for bit, in every scenario."""

import random
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning import LightningDataModule, LightningModule
from pytorch_lightning.callbacks import (
    BaseFinetuning,
    EarlyStopping,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, RandomSampler, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

import lightning_clr.snapshot
import lightning_clr.trial
from lightning_clr import lr_range_test
from lightning_clr.snapshot import Snapshot
from support.data import blobs, loader
from support.exactness import SWEEP, AfterTrial, Case, MishapError, WithoutTrial, run
from support.models import Plain, Scheduled
from support.training import quiet_trainer

SCENARIOS: dict[str, Callable[[], Case]] = {}


def scenario(make: Callable[[], Case]) -> Callable[[], Case]:
    SCENARIOS[make.__name__] = make
    return make


# --- data -------------------------------------------------------------------------------------------------------------


@scenario
def shuffle():
    return Case()


@scenario
def shuffle_with_generator():
    return Case(train=lambda: loader(160, shuffle=True, generator=torch.Generator().manual_seed(3)))


@scenario
def weighted_sampler():
    weights = torch.arange(1, 161, dtype=torch.double)
    return Case(train=lambda: loader(160, sampler=WeightedRandomSampler(weights, 160)))


class Rotating(BatchSampler):
    """Starts each epoch at the next batch, and draws from a generator of its own."""

    def __init__(self):
        super().__init__(RandomSampler(range(160), generator=torch.Generator().manual_seed(1)), 16, False)
        self.start = 0
        self.rng = random.Random(4)

    def __iter__(self) -> Iterator[list[int]]:
        self.start += 1
        batches = list(super().__iter__())
        self.rng.shuffle(batches)
        return iter(batches[self.start :] + batches[: self.start])


@scenario
def batch_sampler_with_state():
    return Case(train=lambda: DataLoader(blobs(160), batch_sampler=Rotating()))


class Augmented(Dataset):
    """Noise from every random generator there is, and a count of the reads."""

    def __init__(self):
        self.data = blobs(160)
        self.rng = np.random.default_rng(5)
        self.reads = 0

    def __len__(self):
        return 160

    def __getitem__(self, index):
        self.reads += 1
        x, y = self.data[index]
        noise = self.rng.normal() + random.random() + np.random.rand() + torch.rand(()).item() + 0.1 * self.reads
        return x + 0.01 * noise, y


@scenario
def augmentation_in_the_main_process():
    return Case(train=lambda: DataLoader(Augmented(), 16, shuffle=True))


@scenario
def augmentation_in_workers():
    return Case(train=lambda: DataLoader(Augmented(), 16, shuffle=True, num_workers=2))


@scenario
def augmentation_in_persistent_workers():
    return Case(train=lambda: DataLoader(Augmented(), 16, shuffle=True, num_workers=1, persistent_workers=True))


@scenario
def stateful_dataloader():
    return Case(train=lambda: StatefulDataLoader(blobs(160), 16, shuffle=True))


@scenario
def several_loaders():
    return Case(
        module=OnPairs,
        train=lambda: CombinedLoader({"a": loader(160, shuffle=True), "b": loader(96, shuffle=True)}, "max_size_cycle"),
    )


class OnWhatComes(Plain):
    def training_step(self, batch, batch_idx):
        return sum(self.loss(part) for part in batch.values() if part is not None)


@scenario
def several_loaders_until_the_last_ends():
    loaders = {"a": partial(loader, 160, shuffle=True), "b": partial(loader, 96, shuffle=True)}
    return Case(
        module=OnWhatComes, train=lambda: CombinedLoader({k: make() for k, make in loaders.items()}, "max_size")
    )


@scenario
def several_loaders_in_a_dictionary():
    return Case(module=OnPairs, train=lambda: {"a": loader(160, shuffle=True), "b": loader(96, shuffle=True)})


class OnPairs(Plain):
    def training_step(self, batch, batch_idx):
        return self.loss(batch["a"]) + self.loss(batch["b"])


class Stream(IterableDataset):
    """A stream that goes through its data once: it cannot be rewound."""

    def __init__(self, batches=40):
        x, y = blobs(16 * batches).tensors
        self.source = iter(zip(x.split(16), y.split(16), strict=True))

    def __iter__(self):
        return self.source


def unbatched(dataset: Dataset) -> DataLoader:
    return DataLoader(dataset, batch_size=None)


@scenario
def stream_that_cannot_rewind():
    return Case(train=lambda: unbatched(Stream()), trainer={"max_steps": 30, "max_epochs": -1})


@scenario
def stream_shorter_than_the_test():
    return Case(train=lambda: unbatched(Stream(batches=8)), trainer={"max_steps": 30})


@scenario
def stream_with_limited_batches():
    return Case(train=lambda: unbatched(Stream()), trainer={"limit_train_batches": 9})


@scenario
def plain_generator():
    return Case(train=lambda: (batch for batch in loader(320)), trainer={"max_epochs": 1})


@scenario
def stream_beside_a_shuffled_loader():
    return Case(
        module=OnPairs,
        train=lambda: CombinedLoader({"a": loader(160, shuffle=True), "b": unbatched(Stream())}, "min_size"),
    )


class Shuffling(Stream):
    """Draws its order from the global generator when it starts, at the first batch of training."""

    def __init__(self):
        super().__init__()
        self.source = self._shuffled(list(self.source))

    def __len__(self):  # a known length spares Lightning from looking one batch ahead
        return 40

    def _shuffled(self, batches):
        for index in torch.randperm(len(batches)).tolist():
            yield batches[index]


@scenario
def stream_that_shuffles_itself():
    return Case(train=lambda: unbatched(Shuffling()), module=WithDropout, trainer={"max_epochs": 1})


class Counting(IterableDataset):
    """A stream whose position is a number."""

    position = 0

    def __iter__(self):
        while True:
            self.position += 1
            generator = torch.Generator().manual_seed(self.position)
            x = torch.randn(16, 8, generator=generator)
            yield x, x[:, :3].argmax(1)


@scenario
def stream_with_a_position():
    return Case(train=lambda: unbatched(Counting()), trainer={"max_steps": 25, "max_epochs": -1})


class Random(IterableDataset):
    """An endless stream of random numbers."""

    def __iter__(self):
        while True:
            x = torch.randn(16, 8)
            yield x, x[:, :3].argmax(1)


@scenario
def stream_of_random_numbers():
    return Case(train=lambda: unbatched(Random()), module=WithDropout, trainer={"max_steps": 25, "max_epochs": -1})


@scenario
def stream_in_workers():
    return Case(train=lambda: DataLoader(Counting(), None, num_workers=1), trainer={"max_steps": 25, "max_epochs": -1})


class WritesIntoBatch(Plain):
    def training_step(self, batch, batch_idx):
        batch[0].mul_(0.5)
        return super().training_step(batch, batch_idx)


@scenario
def training_step_writes_into_the_batch():
    return Case(train=lambda: unbatched(Stream()), module=WritesIntoBatch, trainer={"max_steps": 30, "max_epochs": -1})


class Memory(Dataset):
    """Reads a file that must not be written."""

    def __init__(self):
        np.arange(160 * 8, dtype=np.float32).tofile("data.bin")
        self.data = np.memmap("data.bin", dtype=np.float32, mode="r", shape=(160, 8))

    def __len__(self):
        return 160

    def __getitem__(self, index):
        return torch.from_numpy(self.data[index] / 1000), index % 3


@scenario
def memory_mapped_file():
    return Case(train=lambda: DataLoader(Memory(), 16, shuffle=True))


class Collates:
    """Puts samples together, and remembers how many."""

    def __init__(self):
        self.batches = 0

    def collate(self, samples):
        self.batches += 1
        x, y = torch.utils.data.default_collate(samples)
        return x * (1 + 0.01 * self.batches), y


@scenario
def collate_function_that_counts():
    return Case(train=lambda: loader(160, shuffle=True, collate_fn=partial(Collates().collate)))


class Hidden(IterableDataset):
    """A stream that hides its source in a function."""

    def __init__(self):
        source = iter(Stream())
        self.read = lambda: next(source)

    def __iter__(self):
        while True:
            yield self.read()


@scenario
def stream_behind_a_function():
    return Case(train=lambda: unbatched(Hidden()), trainer={"max_steps": 24, "max_epochs": -1})


class Counts(LightningDataModule):
    def __init__(self):
        super().__init__()
        self.transfers, self.seen = 0, []

    def train_dataloader(self):
        return loader(160, shuffle=True)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.transfers += 1
        self.seen.append(len(batch))
        return batch[0] * (1 + 0.01 * self.transfers), batch[1]


@scenario
def datamodule_that_counts():
    return Case(datamodule=Counts)


class TakesIterator(Plain):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


@scenario
def training_step_takes_the_iterator():
    return Case(module=TakesIterator)


@scenario
def overfit_batches():
    return Case(train=lambda: loader(160), trainer={"overfit_batches": 3, "max_epochs": 4})


@scenario
def reloaded_loaders():
    return Case(trainer={"reload_dataloaders_every_n_epochs": 1})


# --- modules ----------------------------------------------------------------------------------------------------------


class WithDropout(Plain):
    def forward(self, x):
        return self.head(nn.functional.dropout(torch.relu(self.body(x)), 0.3, self.training))


@scenario
def dropout():
    return Case(module=WithDropout)


class Normalized(Plain):
    """Batch normalization, and buffers written in place, replaced, left out of checkpoints and born late."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.register_buffer("in_place", torch.zeros(3), persistent=False)
        self.register_buffer("replaced", torch.zeros(()))

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.body(x)))) + self.replaced

    def training_step(self, batch, batch_idx):
        self.in_place += 1
        self.replaced = self.replaced * 0.5 + 0.01
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.zeros(1))
        self.late += 1
        return super().training_step(batch, batch_idx) + 0.01 * self.in_place.sum() + self.late.sum()


@scenario
def batchnorm_and_buffers():
    return Case(module=Normalized)


class Slotted:
    """A helper without a dictionary."""

    __slots__ = ("value",)

    def __init__(self):
        self.value = 0


class Log(list):
    """A list with an attribute."""

    total = 0

    def add(self, value):
        self.append(value)
        self.total += value


def counter():
    """A function that remembers."""
    calls = 0

    def count():
        nonlocal calls
        calls += 1
        return calls

    return count


class Meter:
    """A user's own helper object."""

    def __init__(self):
        self.total, self.history = 0.0, {"seen": [1]}

    def update(self, value):
        self.total += value
        self.history["seen"].append(value)


class Remembers(Plain):
    """Python state of many kinds, all of which enters the loss."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.losses, self.names, self.recent = [], set(), deque(maxlen=3)
        self.nested = {"deep": [{"value": 0}], "pair": ([0], 1)}
        self.array, self.tensor = np.zeros(2), torch.zeros(2)
        self.meter, self.rng = Meter(), np.random.RandomState(3)
        self.draws = torch.Generator().manual_seed(2)
        self.hidden = [nn.Linear(3, 3)]
        self.slotted, self.log_book, self.space, self.count_calls = Slotted(), Log(), SimpleNamespace(n=0), counter()
        self.read_only = np.broadcast_to(np.ones(1), (3,))

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.count += 1
        self.losses.append(loss.item())
        self.names.add(str(self.count))
        self.recent.append(self.count)
        self.nested["deep"][0]["value"] += 1
        self.nested["pair"][0][0] += 1
        self.array += 1
        self.tensor += 1
        self.meter.update(1)
        self.born = getattr(self, "born", 0) + 1
        self.hidden[0].weight.data.add_(0.01)
        self.slotted.value += 1
        self.log_book.add(1)
        self.space.n += 1
        self.nested["called"] = self.count_calls() + self.slotted.value + self.log_book.total + self.space.n
        state = self.count + len(self.losses) + len(self.names) + sum(self.recent) + self.nested["deep"][0]["value"]
        state += (
            self.nested["called"]
            + self.nested["pair"][0][0]
            + self.array.sum()
            + self.tensor.sum()
            + self.meter.total
            + self.born
        )
        state += self.rng.rand() + torch.rand((), generator=self.draws) + self.hidden[0].weight.sum().item()
        return loss * (1 + 1e-3 * float(state))


@scenario
def python_state():
    return Case(module=Remembers)


class Hooked(Plain):
    """Registers a hook on a parameter when training starts, and writes into a tensor under autograd."""

    def __init__(self):
        super().__init__()
        self.hooked = False
        self.memory = torch.zeros(3)

    def training_step(self, batch, batch_idx):
        if not self.hooked:
            self.hooked = True
            self.body.weight.register_hook(lambda grad: grad * 1.5)
        memory = self.memory
        memory += self.head.bias * 0.1
        self.memory = memory.detach()
        return super().training_step(batch, batch_idx) + memory.sum()


@scenario
def hooks_on_parameters_and_tensors_under_autograd():
    return Case(module=Hooked)


class Measured(Plain):
    """torchmetrics, logged as objects and used by hand."""

    def __init__(self):
        super().__init__()
        self.acc = torchmetrics.Accuracy(task="multiclass", num_classes=3)
        self.own = torchmetrics.MeanMetric(nan_strategy="ignore")

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = super().training_step(batch, batch_idx)
        self.acc(self(x), y)
        self.own.update(loss.detach())
        self.log("acc", self.acc, on_step=False, on_epoch=True)
        self.log("epoch_loss", loss, on_step=False, on_epoch=True)
        return loss + 0.01 * self.own.compute()


@scenario
def torchmetrics_states():
    return Case(module=Measured)


class Freezes(Plain):
    """Switches modes and gradients while it trains."""

    def training_step(self, batch, batch_idx):
        self.head.requires_grad_(self.global_step % 2 == 0)
        self.body.train(self.global_step % 3 == 0)
        return super().training_step(batch, batch_idx)


@scenario
def modes_and_frozen_parameters():
    return Case(module=Freezes)


class Compiled(Normalized):
    def __init__(self):
        super().__init__()
        self.body = torch.compile(self.body, backend="eager")


@scenario
def compiled_layer():
    return Case(module=Compiled)


# --- optimization -----------------------------------------------------------------------------------------------------


def optimized(make: Callable[[LightningModule], object], base: type = Plain) -> Callable[[], LightningModule]:
    return type(f"With{base.__name__}", (base,), {"configure_optimizers": make, "__module__": __name__})


def adam(module: LightningModule) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr=0.01)


@scenario
def adam_without_schedule():
    return Case(module=optimized(adam))


@scenario
def adamw_with_tensor_lr():
    return Case(module=optimized(lambda m: torch.optim.AdamW(m.parameters(), lr=torch.tensor(0.01), foreach=False)))


@scenario
def adagrad_has_state_before_its_first_step():
    return Case(module=optimized(lambda m: torch.optim.Adagrad(m.parameters(), lr=0.1)))


@scenario
def one_cycle_from_the_mixin():
    return Case(module=Scheduled)


@scenario
def schedule_and_adam_in_two_groups():
    def two_groups(module):
        groups = [{"params": module.body.parameters(), "lr": 1e-3}, {"params": module.head.parameters()}]
        return module.with_schedule(torch.optim.Adam(groups, lr=0.01))

    return Case(module=optimized(two_groups, Scheduled))


def torch_one_cycle(module):
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


@scenario
def torch_one_cycle_scheduler():
    return Case(module=optimized(torch_one_cycle), trainer={"max_epochs": 1})


def plateau(module):
    optimizer = adam(module)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_acc"}}


@scenario
def reduce_on_plateau():
    return Case(module=optimized(plateau))


@scenario
def accumulation():
    return Case(module=Scheduled, trainer={"accumulate_grad_batches": 3})


@scenario
def accumulation_scheduler():
    return Case(callbacks=lambda: [GradientAccumulationScheduler({0: 4, 1: 2})])


@scenario
def clipping_by_norm():
    return Case(trainer={"gradient_clip_val": 0.1})


@scenario
def clipping_by_value():
    return Case(trainer={"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"})


class WarmsUp(Plain):
    """Sets the learning rate by hand, as many recipes do."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + self.trainer.global_step)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


@scenario
def optimizer_step_override():
    return Case(module=WarmsUp)


class ClipsByHand(Plain):
    """Clips the body alone."""

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        nn.utils.clip_grad_norm_(self.body.parameters(), gradient_clip_val)


@scenario
def gradient_clipping_override():
    return Case(module=ClipsByHand, trainer={"gradient_clip_val": 0.1})


class Thaws(BaseFinetuning):
    """Trains the head alone, then adds a group for the body."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.body)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.body, optimizer, initial_denom_lr=10)


def trainable(module):
    weights = filter(lambda weight: weight.requires_grad, module.parameters())
    return module.with_schedule(torch.optim.SGD(weights, lr=0.1, momentum=0.9))


@scenario
def finetuning():
    return Case(module=optimized(trainable, Scheduled), callbacks=lambda: [Thaws()])


class Adversarial(Plain):
    """Manual optimization, two optimizers with a scheduler each, toggled."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for index, optimizer in enumerate(self.optimizers()):
            self.toggle_optimizer(optimizer)
            loss = self.loss(batch) * (index + 1)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        for scheduler in self.lr_schedulers():
            scheduler.step()
        return loss.detach()

    def configure_optimizers(self):
        optimizers = [
            torch.optim.SGD(self.body.parameters(), lr=0.05),
            torch.optim.Adam(self.head.parameters(), lr=0.01),
        ]
        return optimizers, [torch.optim.lr_scheduler.StepLR(optimizer, 3) for optimizer in optimizers]


@scenario
def manual_optimization_with_two_optimizers():
    return Case(module=Adversarial)


@scenario
def bf16():
    return Case(trainer={"precision": "bf16-mixed"})


@scenario
def fp16_with_gradient_scaler():
    scaler = partial(torch.amp.GradScaler, "cpu", init_scale=2.0**14, growth_interval=3)
    return Case(module=Scheduled, trainer={"plugins": [pl.plugins.MixedPrecision("16-mixed", "cpu", scaler())]})


@scenario
def anomaly_detection():
    return Case(trainer={"detect_anomaly": True})


# --- trainers ---------------------------------------------------------------------------------------------------------


@scenario
def validation_in_mid_epoch():
    return Case(trainer={"val_check_interval": 4})


@scenario
def without_sanity_check():
    return Case(trainer={"num_sanity_val_steps": 0})


@scenario
def validation_metric_monitored():
    return Case(test={"monitor": "val_acc", "monitor_mode": "max", "val_every_n_steps": 1}, module=Measured)


@scenario
def checkpoints():
    return Case(
        trainer={"enable_checkpointing": True},
        callbacks=lambda: [ModelCheckpoint("ckpts", every_n_train_steps=3, save_top_k=-1, save_last=True)],
    )


@scenario
def early_stopping():
    return Case(trainer={"max_epochs": 6}, callbacks=lambda: [EarlyStopping("val_acc", patience=1, min_delta=0.5)])


@scenario
def weight_averaging():
    return Case(trainer={"max_epochs": 3}, callbacks=lambda: [StochasticWeightAveraging(0.05, swa_epoch_start=1)])


@scenario
def exponential_moving_average():
    if not hasattr(pl.callbacks, "EMAWeightAveraging"):
        pytest.skip("Lightning has it from 2.6 on")
    return Case(callbacks=lambda: [pl.callbacks.EMAWeightAveraging()])


@scenario
def csv_logger():
    return Case(trainer={"logger": lambda: CSVLogger("."), "log_every_n_steps": 1})


@scenario
def tensorboard_logger():
    return Case(trainer={"logger": lambda: TensorBoardLogger("."), "log_every_n_steps": 1})


@scenario
def shorter_than_the_test():
    return Case(trainer={"max_steps": 5})


# --- the facts --------------------------------------------------------------------------------------------------------


def trace(make: Callable[[], Case], test: type[LightningModule], folder, monkeypatch) -> tuple[list, WithoutTrial]:
    """The trace of one run, in a folder of its own."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    case = make()
    for name, value in case.trainer.items():
        case.trainer[name] = value() if callable(value) else value
    callback = test(**SWEEP, **case.test)
    return run(case, callback), callback


ENDINGS = {
    "ok": {},
    "error": {"fault": MishapError},
    "ctrl-c": {"fault": KeyboardInterrupt},
    "nan": {"fault": float("nan")},
    "twice": {"trials": 2},
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.parametrize("make", SCENARIOS.values(), ids=SCENARIOS)
def test_training_is_bit_identical(make, ending, tmp_path, monkeypatch):
    """Weights, batches, losses, random numbers, metrics, states and files equal those of a run without the trial."""
    expected, _ = trace(make, WithoutTrial, tmp_path / "without", monkeypatch)
    actual, test = trace(make, type("AfterTrial", (AfterTrial,), ending), tmp_path / "with", monkeypatch)

    assert test.ran >= (1 if test.fault else 3)
    assert actual == expected
    if test.trials == 2:
        assert test.found[0].values == test.found[1].values


def held_on(snapshot: Snapshot) -> set[str]:
    """The devices of the copies of parameters."""
    undone = [undo for undo in snapshot._undo if isinstance(undo, partial)]
    return {undo.args[1].device.type for undo in undone if undo.func is lightning_clr.snapshot._put_back_tensor}


def test_copies_are_kept_on_the_device_asked_for():
    """Here on one that stores nothing."""
    snapshot = Snapshot("meta")
    snapshot.add(Plain())

    assert held_on(snapshot) == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_of_a_gpu_may_be_kept_on_the_host():
    """By default they are beside the originals."""
    beside, host = Snapshot(), Snapshot("cpu")
    beside.add(module := Plain().cuda())
    host.add(module)

    assert held_on(beside) == {"cuda"}
    assert held_on(host) == {"cpu"}


def nothing(*_, **__):
    """What a part of the restoration does when it is switched off."""


def without(target: str, replacement: Callable = nothing) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda monkeypatch: monkeypatch.setattr(f"lightning_clr.{target}", replacement)


def keeping(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Leave out what the trial replaces on the trainer and its parts."""
    replaced = lightning_clr.trial._replaced

    def fewer(owner, **attributes):
        return replaced(owner, **{name: value for name, value in attributes.items() if name not in names})

    return without("trial._replaced", fewer)


def forgetting(*kinds: type) -> Callable[[pytest.MonkeyPatch], None]:
    """Leave objects of some classes out of the snapshot."""
    add = Snapshot.add

    def add_others(self, value, data=False):
        if not isinstance(value, kinds):
            add(self, value, data)

    return without("trial.Snapshot.add", add_others)


put_back = lightning_clr.snapshot._put_back_tensor
detect_anomaly = torch.autograd.set_detect_anomaly

MUTATIONS = {
    "tensors": (without("snapshot._put_back_tensor"), shuffle, None),
    "arrays": (without("snapshot._put_back_array"), python_state, None),
    "containers": (without("snapshot._container_state"), python_state, None),
    "tuples": (forgetting(tuple), python_state, None),
    "lists": (forgetting(list), python_state, None),
    "sets": (forgetting(set), python_state, None),
    "queues": (forgetting(deque), python_state, None),
    "generators": (without("snapshot._generator_state"), shuffle_with_generator, None),
    "the user's objects": (
        without("snapshot._is_walked_class", lambda kind: issubclass(kind, nn.Module)),
        python_state,
        None,
    ),
    "attributes": (without("snapshot.Snapshot.add_attributes"), python_state, None),
    "global random numbers": (without("snapshot.set_rng_state"), dropout, None),
    "modules": (forgetting(nn.Module), batchnorm_and_buffers, None),
    "optimizers": (forgetting(torch.optim.Optimizer), adam_without_schedule, None),
    "schedulers": (forgetting(torch.optim.lr_scheduler.LRScheduler), manual_optimization_with_two_optimizers, None),
    "gradient scaler": (forgetting(torch.amp.GradScaler), fp16_with_gradient_scaler, None),
    "data module": (forgetting(LightningDataModule), datamodule_that_counts, None),
    "data set": (forgetting(Dataset), augmentation_in_the_main_process, None),
    "samplers": (forgetting(torch.utils.data.Sampler), batch_sampler_with_state, None),
    "sleeping schedulers": (keeping("lr_scheduler_configs"), torch_one_cycle_scheduler, None),
    "the fit loop": (keeping("fit_loop"), torchmetrics_states, None),
    "callbacks": (keeping("callbacks"), shuffle, None),
    "loggers": (keeping("loggers"), csv_logger, None),
    "logged metrics": (keeping("_callback_metrics", "_logged_metrics", "_progress_bar_metrics"), shuffle, None),
    "gradient switches": (
        without(
            "snapshot._put_back_tensor", lambda tensor, *saved: put_back(tensor, saved[0], tensor.requires_grad, None)
        ),
        modes_and_frozen_parameters,
        None,
    ),
    "fresh iterators": (without("trial._fresh", lambda loader: loader), augmentation_in_persistent_workers, None),
    "streams": (without("trial._can_start_over", lambda loader: True), stream_with_limited_batches, None),
    "streams that shuffle": (without("trial._Replay._draw_as_the_stream_did"), stream_that_shuffles_itself, None),
    "copies of batches": (without("trial._cloned", lambda batch: batch), training_step_writes_into_the_batch, None),
}


@pytest.mark.parametrize(("mutate", "make", "fault"), MUTATIONS.values(), ids=MUTATIONS)
def test_every_part_of_the_restoration_is_needed(mutate, make, fault, tmp_path, monkeypatch):
    """With any one part switched off, the comparison above fails: it can tell."""
    expected, _ = trace(make, WithoutTrial, tmp_path / "without", monkeypatch)
    mutate(monkeypatch)

    try:
        actual, _ = trace(make, type("AfterTrial", (AfterTrial,), {"fault": fault}), tmp_path / "with", monkeypatch)
    except Exception:
        return
    assert actual != expected


class Broken(random.Random):
    """Cannot be put back."""

    def setstate(self, state):
        raise RuntimeError("stuck")


def test_what_cannot_be_put_back_does_not_keep_the_others():
    """The error is shown when all the rest is done."""
    module = Plain()
    module.before, module.dice, module.after = [], Broken(), {}
    weight = module.head.weight.detach().clone()
    snapshot = Snapshot()
    snapshot.add(module)
    torch.nn.init.zeros_(module.head.weight)
    module.before.append(1)
    module.after["key"] = 1

    with pytest.raises(RuntimeError, match="stuck"):
        snapshot.__exit__(None, None, None)
    assert (module.before, module.after) == ([], {})
    assert torch.equal(module.head.weight, weight)


class Interrupted(random.Random):
    """As by Ctrl-C."""

    def setstate(self, state):
        raise KeyboardInterrupt


@pytest.mark.parametrize("dice", [[Broken(), Interrupted()], [Interrupted(), Broken()]], ids=["last", "first"])
def test_interrupt_is_not_lost_among_errors(dice):
    snapshot = Snapshot()
    snapshot.add(dice)

    with pytest.raises(KeyboardInterrupt):
        snapshot.__exit__(None, None, None)


def test_logged_values_find_their_metric_on_its_device(monkeypatch):
    """It moves when the first value comes, and not again with every other, in which Lightning copies its settings."""
    moved = []
    move = _ResultMetric.to
    monkeypatch.setattr(_ResultMetric, "to", lambda self, device: moved.append(self.meta.name) or move(self, device))

    lr_range_test(quiet_trainer(max_epochs=1), Plain(), loader(), num_steps=10, closer_look=False)

    assert moved.count("train_loss") == 1


@pytest.mark.parametrize("devices", [("cpu", "meta", "meta"), ("cpu", "cpu", "meta")])
def test_logged_values_may_come_from_several_devices(devices):
    """A metric follows its values where Lightning's own does, here to the device that stores nothing."""

    def found(results):
        for device in devices:
            results.log("training_step", "loss", torch.zeros((), device=device), on_step=True, on_epoch=False)
            yield results["training_step.loss"].cumulated_batch_size.device.type

    plain = _ResultCollection(training=True)

    assert [*found(lightning_clr.trial._moved_once(plain))] == [*found(plain)]
