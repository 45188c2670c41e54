"""The data of training after a range test are those of a training that never had one, wherever they come from."""

import random
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)
from torchdata.stateful_dataloader import StatefulDataLoader

from support.data import Stream, batches, blobs, loader, unbatched
from support.exactness import Case
from support.models import Plain, WithDropout
from support.scenarios import (
    Scenarios,
    check_bit_identical,
    check_noticed,
    each_mutation,
    forgetting,
    without,
)

SCENARIOS = Scenarios()


@SCENARIOS.add
def shuffle():
    return Case()


@SCENARIOS.add
def shuffle_with_generator():
    return Case(train=lambda: loader(160, shuffle=True, generator=torch.Generator().manual_seed(3)))


@SCENARIOS.add
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


@SCENARIOS.add
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


@SCENARIOS.add
def augmentation_in_the_main_process():
    return Case(train=lambda: DataLoader(Augmented(), 16, shuffle=True))


@SCENARIOS.add
@pytest.mark.processes
def augmentation_in_workers():
    return Case(train=lambda: DataLoader(Augmented(), 16, shuffle=True, num_workers=2))


@SCENARIOS.add
@pytest.mark.processes
def augmentation_in_persistent_workers():
    return Case(train=lambda: DataLoader(Augmented(), 16, shuffle=True, num_workers=1, persistent_workers=True))


@SCENARIOS.add
def stateful_dataloader():
    return Case(train=lambda: StatefulDataLoader(blobs(160), 16, shuffle=True))


@SCENARIOS.add
def several_loaders():
    return Case(
        module=OnPairs,
        train=lambda: CombinedLoader({"a": loader(160, shuffle=True), "b": loader(96, shuffle=True)}, "max_size_cycle"),
    )


class OnWhatComes(Plain):
    def training_step(self, batch, batch_idx):
        return sum(self.loss(part) for part in batch.values() if part is not None)


@SCENARIOS.add
def several_loaders_until_the_last_ends():
    loaders = {"a": partial(loader, 160, shuffle=True), "b": partial(loader, 96, shuffle=True)}
    return Case(
        module=OnWhatComes, train=lambda: CombinedLoader({k: make() for k, make in loaders.items()}, "max_size")
    )


@SCENARIOS.add
def several_loaders_in_a_dictionary():
    return Case(module=OnPairs, train=lambda: {"a": loader(160, shuffle=True), "b": loader(96, shuffle=True)})


class OnPairs(Plain):
    def training_step(self, batch, batch_idx):
        return self.loss(batch["a"]) + self.loss(batch["b"])


def once(number: int = 40) -> Stream:
    """Batches that come once."""
    return Stream(batches(number), once=True)


@SCENARIOS.add
def stream_that_cannot_rewind():
    return Case(train=lambda: unbatched(once()), trainer={"max_steps": 30, "max_epochs": -1})


@SCENARIOS.add
def stream_shorter_than_the_test():
    return Case(train=lambda: unbatched(once(8)), trainer={"max_steps": 30})


@SCENARIOS.add
def stream_with_limited_batches():
    return Case(train=lambda: unbatched(once()), trainer={"limit_train_batches": 9})


@SCENARIOS.add
def plain_generator():
    return Case(train=lambda: (batch for batch in loader(320)), trainer={"max_epochs": 1})


@SCENARIOS.add
def stream_beside_a_shuffled_loader():
    return Case(
        module=OnPairs,
        train=lambda: CombinedLoader({"a": loader(160, shuffle=True), "b": unbatched(once())}, "min_size"),
    )


class Shuffling(Stream):
    """Draws its order from the global generator when it starts, at the first batch of training."""

    def __init__(self):
        super().__init__(self._shuffled(batches()), once=True)

    def __len__(self):  # a known length spares Lightning from looking one batch ahead
        return 40

    def _shuffled(self, items):
        for index in torch.randperm(len(items)).tolist():
            yield items[index]


@SCENARIOS.add
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


@SCENARIOS.add
def stream_with_a_position():
    return Case(train=lambda: unbatched(Counting()), trainer={"max_steps": 25, "max_epochs": -1})


class Random(IterableDataset):
    """An endless stream of random numbers."""

    def __iter__(self):
        while True:
            x = torch.randn(16, 8)
            yield x, x[:, :3].argmax(1)


@SCENARIOS.add
def stream_of_random_numbers():
    return Case(train=lambda: unbatched(Random()), module=WithDropout, trainer={"max_steps": 25, "max_epochs": -1})


@SCENARIOS.add
@pytest.mark.processes
def stream_in_workers():
    return Case(train=lambda: DataLoader(Counting(), None, num_workers=1), trainer={"max_steps": 25, "max_epochs": -1})


class WritesIntoBatch(Plain):
    def training_step(self, batch, batch_idx):
        batch[0].mul_(0.5)
        return super().training_step(batch, batch_idx)


@SCENARIOS.add
def training_step_writes_into_the_batch():
    return Case(train=lambda: unbatched(once()), module=WritesIntoBatch, trainer={"max_steps": 30, "max_epochs": -1})


class Memory(Dataset):
    """Reads a file that must not be written."""

    def __init__(self):
        np.arange(160 * 8, dtype=np.float32).tofile("data.bin")
        self.data = np.memmap("data.bin", dtype=np.float32, mode="r", shape=(160, 8))

    def __len__(self):
        return 160

    def __getitem__(self, index):
        return torch.from_numpy(self.data[index] / 1000), index % 3


@SCENARIOS.add
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


@SCENARIOS.add
def collate_function_that_counts():
    return Case(train=lambda: loader(160, shuffle=True, collate_fn=partial(Collates().collate)))


class Hidden(IterableDataset):
    """A stream that hides its source in a function."""

    def __init__(self):
        source = iter(batches())
        self.read = lambda: next(source)

    def __iter__(self):
        while True:
            yield self.read()


@SCENARIOS.add
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


@SCENARIOS.add
def datamodule_that_counts():
    return Case(datamodule=Counts)


class TakesIterator(Plain):
    def training_step(self, dataloader_iter):
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


@SCENARIOS.add
def training_step_takes_the_iterator():
    return Case(module=TakesIterator)


@SCENARIOS.add
def overfit_batches():
    return Case(train=lambda: loader(160), trainer={"overfit_batches": 3, "max_epochs": 4})


@SCENARIOS.add
def reloaded_loaders():
    return Case(trainer={"reload_dataloaders_every_n_epochs": 1})


@SCENARIOS.in_each_ending
def test_training_is_bit_identical(make, ending, tmp_path, monkeypatch):
    """Weights, batches, losses, random numbers, metrics, states and files equal those of a run without the trial."""
    check_bit_identical(make, ending, tmp_path, monkeypatch)


MUTATIONS = {
    "generators": (without("trial.snapshot.generator_state"), shuffle_with_generator),
    "data module": (forgetting(LightningDataModule), datamodule_that_counts),
    "data set": (forgetting(Dataset), augmentation_in_the_main_process),
    "samplers": (forgetting(Sampler), batch_sampler_with_state),
    "fresh iterators": (without("trial.data._fresh", lambda loader: loader), augmentation_in_persistent_workers),
    "streams": (
        without("trial.data.TrialData._can_be_read_twice", lambda self, loader: True),
        stream_with_limited_batches,
    ),
    "streams that shuffle": (without("trial.replay._Draws.repeat"), stream_that_shuffles_itself),
    "copies of batches": (
        without("trial.replay.deep_copy", lambda batch, memo, not_copied: batch),
        training_step_writes_into_the_batch,
    ),
}


@each_mutation(MUTATIONS)
def test_every_part_of_the_restoration_is_needed(mutate, make, tmp_path, monkeypatch):
    """With any one part switched off, the comparison above fails: it can tell."""
    check_noticed(mutate, make, tmp_path, monkeypatch)
