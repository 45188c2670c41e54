"""Data that are not known to be able to start over: training sees after a range test what it would have seen."""

import collections
import copy
import dataclasses
import fcntl
import gc
import itertools
import multiprocessing
import queue
import random
import sqlite3
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

import lightning_clr.trial.data
import lightning_clr.trial.replay
from lightning_clr.trial.snapshot import Snapshot
from support.exactness import SWEEP, AfterTrial, Case, MishapError, WithoutTrial, run
from support.models import Plain
from support.training import quiet_trainer

CASES: dict[str, Callable[[], Case]] = {}


def case(make: Callable[[], Case]) -> Callable[[], Case]:
    CASES[make.__name__] = make
    return make


def batch_number(index: int, size: int = 16):
    generator = torch.Generator().manual_seed(index)
    x = torch.randn(size, 8, generator=generator)
    return x, x[:, :3].argmax(1)


def unbatched(dataset, **kwargs) -> DataLoader:
    return DataLoader(dataset, batch_size=None, **kwargs)


# --- what is read -----------------------------------------------------------------------------------------------------


class Iterator:
    """An iterator by hand, whose position is an attribute."""

    def __init__(self, length=40):
        self.length, self.position = length, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.position >= self.length:
            raise StopIteration
        self.position += 1
        return batch_number(self.position)


@case
def iterator_with_a_position():
    return Case(train=Iterator)


class Sized(Iterator):
    def __len__(self):
        return self.length


@case
def sized_iterator_held_by_the_data_module():
    class Holds(LightningDataModule):
        def __init__(self):
            super().__init__()
            self.stream = Sized()

        def train_dataloader(self):
            return self.stream

    return Case(datamodule=Holds, trainer={"max_epochs": 1})


class ResetsItself(Sized):
    """As iterators of DALI do: starts again after its end, and never before."""

    def __iter__(self):
        assert self.position in (0, self.length)
        self.position = 0
        return self


@case
def iterator_that_resets_itself():
    return Case(train=lambda: ResetsItself(10), trainer={"max_epochs": 3})


class Buffered(Sized):
    """Writes every batch into the same memory."""

    def __init__(self):
        super().__init__()
        self.x, self.y = batch_number(0)

    def __next__(self):
        x, y = super().__next__()
        self.x.copy_(x), self.y.copy_(y)
        return self.x, self.y


@case
def one_buffer_for_all_batches():
    return Case(module=WritesIntoBatch, train=Buffered, trainer={"max_epochs": 1})


class WritesIntoBatch(Plain):
    def loss(self, batch):
        x, y = (batch["x"], batch["y"]) if hasattr(batch, "keys") else (batch[0], batch[1])
        x.mul_(0.5)
        return super().loss((x, y))


class MapOverIterator(Dataset):
    """Hands out what comes next, whatever is asked for."""

    def __init__(self, read=None):
        numbers = iter(range(200))
        self.read = read or (lambda: next(numbers))

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return batch_number(self.read())


@case
def map_style_over_an_iterator():
    return Case(train=lambda: unbatched(MapOverIterator()))


@case
def map_style_over_a_queue():
    waiting = queue.Queue()
    for number in range(200):
        waiting.put(number)
    return Case(train=lambda: unbatched(MapOverIterator(waiting.get_nowait)))


NUMBERS = None


class MapOverGlobal(MapOverIterator):
    def __getitem__(self, index):
        return batch_number(next(NUMBERS))


@case
def map_style_over_a_global_variable():
    def make():
        global NUMBERS
        NUMBERS = itertools.count()
        return unbatched(MapOverGlobal())

    return Case(train=make)


class Cursor(IterableDataset):
    def __init__(self):
        numbers = "WITH RECURSIVE t(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM t WHERE n < 39) SELECT n FROM t"
        self.cursor = sqlite3.connect(":memory:").execute(numbers)

    def __iter__(self):
        return (batch_number(number) for (number,) in self.cursor)


@case
def database_cursor():
    return Case(train=lambda: unbatched(Cursor()), trainer={"max_epochs": 1})


@case
def epochs_shorter_than_the_test():
    return Case(train=lambda: unbatched(Endless()), trainer={"max_epochs": 4, "limit_train_batches": 9})


@case
def training_shorter_than_the_test():
    return Case(train=lambda: unbatched(Endless()), trainer={"max_steps": 5})


class Endless(IterableDataset):
    def __init__(self):
        self.numbers = itertools.count()

    def __iter__(self):
        return map(batch_number, self.numbers)


class OneAnEpoch(Endless):
    def __iter__(self):
        yield batch_number(next(self.numbers))


@case
def one_batch_an_epoch():
    return Case(train=lambda: unbatched(OneAnEpoch()), trainer={"max_epochs": 5})


class Noisy(Endless):
    """Draws random numbers in this process whenever a batch is read."""

    def __iter__(self):
        for number in self.numbers:
            x, y = batch_number(number)
            yield x + 0.1 * (torch.randn(()) + random.random() + np.random.rand()), y


class WithDropout(Plain):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.2, self.training))


@case
def random_numbers_while_reading_and_training():
    return Case(module=WithDropout, train=lambda: unbatched(Noisy()), trainer={"max_steps": 30})


class OnBoth(Plain):
    def training_step(self, batch, batch_idx):
        return self.loss(batch["stream"]) + self.loss(batch["data"])


class Numbered(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, index):
        return batch_number(index)


@case
def beside_data_that_start_over():
    return Case(
        module=OnBoth,
        train=lambda: CombinedLoader(
            {"stream": unbatched(MapOverIterator()), "data": unbatched(Numbered(), shuffle=True)}, "max_size_cycle"
        ),
    )


class LooksAtLoader(Plain):
    def training_step(self, batch, batch_idx):
        loader = self.trainer.train_dataloader
        assert isinstance(loader, DataLoader)
        assert isinstance(loader.dataset, Endless)
        return super().training_step(batch, batch_idx)


@case
def loader_looked_at_in_the_step():
    return Case(module=LooksAtLoader, train=lambda: unbatched(Endless()), trainer={"max_steps": 20})


class Sampled(Dataset):
    def __len__(self):
        return 160

    def __getitem__(self, index):
        x, y = batch_number(index, 1)
        return x[0], y[0]


class Repeats:
    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from self.sampler


HELD = []


class KeepsItsWorkers(DataLoader):
    """As several libraries have it: one iterator for all epochs, which the loader holds."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        vars(self)["batch_sampler"] = Repeats(self.batch_sampler)
        self.iterator = super().__iter__()
        HELD.append(self.iterator)

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        return itertools.islice(self.iterator, len(self))


@pytest.fixture(autouse=True)
def _held_workers_end():
    """Here and now: where a garbage collection ends them, it waits for five seconds."""
    yield
    while HELD:
        HELD.pop()._shutdown_workers()


@case
def loader_that_holds_its_iterator():
    return Case(train=lambda: KeepsItsWorkers(Sampled(), 16, shuffle=True, num_workers=1))


# --- workers ----------------------------------------------------------------------------------------------------------


class Queue(IterableDataset):
    def __init__(self):
        self.waiting = multiprocessing.Queue()
        for number in range(60):
            self.waiting.put(number)
        self.waiting.put(None)

    def __iter__(self):
        return map(batch_number, iter(self.waiting.get, None))


@case
def queue_behind_a_worker():
    return Case(train=lambda: unbatched(Queue(), num_workers=1), trainer={"max_epochs": 1})


class Locked(IterableDataset):
    """Nothing in it but a path; whoever reads locks a file."""

    path = "lock"

    def __iter__(self):
        with open(f"{self.path} {get_worker_info().id}", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield from map(batch_number, range(30))


@case
def locks_of_workers():
    return Case(train=lambda: unbatched(Locked(), num_workers=2), trainer={"max_epochs": 1})


# --- batches ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device, **_):
        return self

    def __getitem__(self, index):
        return (self.x, self.y)[index]


class Graph(Frozen):
    """Moves in place, as torch-geometric's do, and cannot be copied as a whole."""

    def __init__(self, x, y):
        vars(self).update(x=x, y=y, parts=[{"x": x * torch.ones((), requires_grad=True)}], name="graph")

    def __reduce_ex__(self, protocol):
        raise TypeError("never pickled")

    def __copy__(self):
        return Graph(self.x, self.y)


Named = collections.namedtuple("Named", "x y names")
BATCHES = {
    "frozen data class": Frozen,
    "object that refuses": Graph,
    "named tuple": lambda x, y: Named(x, y, ["a", {"b": "c"}]),
    "dictionary of lists": lambda x, y: {"x": x, "y": y, "names": [["a"], b"b"]},
    "history": lambda x, y: (x * torch.ones((), requires_grad=True), y),
}


if find_spec("tensordict") is not None:
    from tensordict import TensorDict

    BATCHES["tensor dictionary"] = lambda x, y: TensorDict({"x": x, "y": y}, batch_size=16)


def made_of(kind):
    read = BATCHES[kind]
    module = Plain if kind == "history" else WritesIntoBatch
    return Case(
        module=type("OnParts", (module,), {"training_step": lambda self, batch, batch_idx: self.loss(batch)}),
        train=lambda: (read(*batch_number(number)) for number in range(30)),
        trainer={"max_epochs": 1},
        val=None,
    )


for kind in BATCHES:
    CASES[kind] = lambda kind=kind: made_of(kind)


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param({}, id="ok"),
        pytest.param({"fault": MishapError}, marks=pytest.mark.exhaustive, id="error"),
        pytest.param({"trials": 2}, marks=pytest.mark.exhaustive, id="twice"),
    ],
)
@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
@pytest.mark.filterwarnings("ignore")
def test_training_sees_what_it_would_have_seen(make, ending):
    """Batches, losses, weights, random numbers and states are those of a training without the test."""
    expected = run(make(), WithoutTrial(**SWEEP))
    actual = run(make(), test := type("AfterTrial", (AfterTrial,), ending)(**SWEEP))

    assert test.ran >= 5
    assert actual[:-1] == expected[:-1], "but for files"


SEEN: list = []
"""Noted in a trial too; a global variable is not put back."""


# --- what a policy makes ----------------------------------------------------------------------------------------------


class Rollouts(IterableDataset):
    """Steps an environment with the module as it is now."""

    def __init__(self, module, source=None):
        self.module, self.source = module, source

    def __iter__(self):
        for _ in range(10):
            yield self.module.play()


class Agent(Plain):
    source = None

    def __init__(self):
        super().__init__()
        self.state, self.plays = torch.zeros(8), 0

    def play(self):
        states = []
        for _ in range(16):
            with torch.no_grad():
                action = self(self.state).argmax()
            self.state = torch.tanh(self.state / 2 + torch.randn(8) + action)
            states.append(self.state)
        self.plays += 1
        return torch.stack(states), torch.stack(states)[:, :3].argmax(1)

    def train_dataloader(self):
        return unbatched(Rollouts(self, self.source))


class Remembers(Plain):
    """Learns from a memory that its steps fill."""

    def __init__(self):
        super().__init__()
        self.memory = collections.deque([torch.randn(8) for _ in range(50)], maxlen=200)

    def training_step(self, batch, batch_idx):
        self.memory.append(self(batch[0]).detach().sum() + torch.randn(8))
        return super().training_step(batch, batch_idx)

    def train_dataloader(self):
        return unbatched(Recalls(self.memory))


class Recalls(IterableDataset):
    def __init__(self, memory):
        self.memory = memory

    def __iter__(self):
        for _ in range(10):
            x = torch.stack(random.sample(self.memory, 16))
            yield x, x[:, :3].argmax(1)


@pytest.mark.parametrize("module", [Agent, Remembers])
def test_what_a_policy_makes_is_made_anew(module):
    """Its state is put back, and training makes batches of its own."""
    case = Case(module=module, train=lambda: None, val=None, trainer={"max_epochs": 3})
    expected, actual = run(case, WithoutTrial(**SWEEP)), run(case, test := AfterTrial(**SWEEP))

    assert test.ran >= 5
    assert actual == expected


class Reaches(Agent):
    """Holds, in its data, what cannot be put back."""

    source = itertools.count()


def test_what_a_policy_has_made_is_not_handed_out():
    """Where its data reach what cannot be put back, too; one warning tells."""
    case = Case(module=Reaches, train=lambda: None, val=None, trainer={"max_epochs": 2, "limit_train_batches": 4})
    expected = run(case, WithoutTrial(**SWEEP))

    with pytest.warns(UserWarning, match="made with the weights that are trained") as told:
        actual = run(case, test := type("AfterTrial", (AfterTrial,), {"trials": 2})(**SWEEP))

    assert test.ran == 14
    assert actual == expected
    assert len([warning for warning in told if "made with the weights" in str(warning.message)]) == 1


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.exhaustive
def test_batches_are_released_as_they_are_handed_out():
    """At each step of training fewer are alive."""
    SEEN.clear()

    class Notes(Plain):
        def on_train_batch_start(self, batch, batch_idx):
            gc.collect()
            SEEN.append(sum(type(thing) is torch.Tensor and thing.shape == (16, 8) for thing in gc.get_objects()))

    trainer = quiet_trainer(max_steps=12, callbacks=[AfterTrial(**{**SWEEP, "num_steps": 12, "search": None})])
    trainer.fit(Notes(), unbatched(Endless()))

    assert len(SEEN) == 12 + 12
    assert SEEN[14] - SEEN[-2] >= 8


@pytest.mark.parametrize("trials", [1, 2])
def test_much_memory_is_told_once(trials, monkeypatch):
    """With the amount and the rank."""
    monkeypatch.setattr(lightning_clr.trial.replay, "_MUCH", 5_000)
    test = type("AfterTrial", (AfterTrial,), {"trials": trials})(**SWEEP)

    with pytest.warns(UserWarning, match=r"rank 0 holds more than \S+ GiB") as told:
        quiet_trainer(max_epochs=1, callbacks=[test]).fit(Plain(), Iterator())

    assert len([warning for warning in told if "GiB" in str(warning.message)]) == 1


def test_what_cannot_be_copied_is_told():
    """It is training's, as the test has left it; the rest of the batch is copied."""
    batches = ([x.numpy(), y, (number for number in range(9))] for x, y in map(batch_number, range(20)))
    module, seen = Plain(), SEEN
    seen.clear()
    module.training_step = lambda batch, batch_idx: (
        SEEN.append(batch) or module.loss((torch.tensor(batch[0]), batch[1]))
    )

    with pytest.warns(UserWarning, match=r"cannot be copied \(generator\)"):
        quiet_trainer(max_epochs=1, callbacks=[AfterTrial(**{**SWEEP, "search": None})]).fit(module, batches)

    assert len(seen) == 20 + 14
    assert seen[1][0] is not seen[15][0]
    assert seen[1][2] is seen[15][2]


# --- starts of workers ------------------------------------------------------------------------------------------------

STARTS = multiprocessing.Value("i", 0)


def count_start(worker):
    with STARTS.get_lock():
        STARTS.value += 1


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_start_once_in_a_sweep(persistent):
    """Also where an epoch is a fraction of it; they end with it."""
    STARTS.value, others = 0, {*multiprocessing.active_children()}  # which other tests have left
    loader = DataLoader(Sampled(), 40, num_workers=2, worker_init_fn=count_start, persistent_workers=persistent)
    test = AfterTrial(**{**SWEEP, "search": None})
    quiet_trainer(max_epochs=3, callbacks=[test]).fit(Plain(), loader)

    assert test.ran == 14
    assert STARTS.value == (4 if persistent else 8), "two for the sweep, the others for training"
    assert {*multiprocessing.active_children()} <= others


@pytest.mark.processes
def test_workers_of_a_stream_end_with_training():
    """Not with some later garbage collection, which would wait for them."""
    others, test = {*multiprocessing.active_children()}, AfterTrial(**SWEEP)
    gc.disable()
    try:
        quiet_trainer(max_steps=3, callbacks=[test]).fit(Plain(), unbatched(Endless(), num_workers=1))
        left = {*multiprocessing.active_children()} - others
    finally:
        gc.enable()

    assert test.ran == 14
    assert not left


def test_workers_that_stay_change_no_random_numbers(monkeypatch):
    """The sweep sees the order and the dropout that it would see with workers that start anew."""
    swept = []
    for _ in range(2):
        torch.manual_seed(3)
        test = AfterTrial(**SWEEP)
        loader = DataLoader(Sampled(), 40, shuffle=True, num_workers=1)
        quiet_trainer(max_epochs=1, callbacks=[test]).fit(WithDropout(), loader)
        swept.append(test.found[0].values)
        monkeypatch.setattr(lightning_clr.trial.data, "_fresh", copy.copy)

    assert swept[0] == swept[1]


class OnPolicy(IterableDataset):
    """Five batches an epoch, made with the module's weights, from what cannot be put back."""

    def __init__(self, module):
        self.held, self.made = [module], queue.Queue()

    def __iter__(self):
        for _ in range(5):
            self.made.put(0)
            x = torch.randn(16, 8)
            with torch.no_grad():
                self.held[0](x)
            yield x, x[:, :3].argmax(1)


@pytest.mark.filterwarnings("ignore:The training data are made with the weights", "ignore:The range test cannot put")
@pytest.mark.parametrize("test", [WithoutTrial, AfterTrial])
def test_epochs_made_by_the_module_are_as_long_as_without_the_test(test):
    """The batch that Lightning has read ahead counts."""
    module = Plain()
    trainer = quiet_trainer(max_epochs=2, callbacks=[test(**SWEEP)])
    trainer.fit(module, DataLoader(OnPolicy(module), None))

    assert trainer.global_step == 10


class Replayed(Dataset):
    """What training has stored, to be trained on again: allocated once, filled by and by."""

    def __init__(self):
        self.x, self.y, self.stored = torch.randn(64, 8), np.zeros(64, dtype=np.int64), 0

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])

    def store(self, x, y):
        place = self.stored % 64
        self.x[place], self.y[place] = x, y
        self.stored += 1


class Stores(Plain):
    """Holds its data set, and writes into it."""

    def __init__(self):
        super().__init__()
        self.replay = Replayed()

    def train_dataloader(self):
        return DataLoader(self.replay, 16, shuffle=True)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.replay.store(batch[0][0] + loss.detach(), self.replay.stored % 3)
        return loss


def test_what_steps_write_into_a_data_set_is_put_back():
    """Tensors and arrays alike, and how many of them are filled."""

    def trained(test):
        torch.manual_seed(3)
        module = Stores()
        quiet_trainer(max_epochs=2, callbacks=[test(**SWEEP)]).fit(module)
        return module

    tested, untested = trained(AfterTrial), trained(WithoutTrial)

    assert tested.replay.stored == untested.replay.stored > 0
    assert torch.equal(tested.replay.x, untested.replay.x)
    assert np.array_equal(tested.replay.y, untested.replay.y)
    assert all(map(torch.equal, tested.parameters(), untested.parameters()))


def test_large_tensors_of_a_data_set_are_not_copied(monkeypatch):
    """They are taken to be read only: 64 MiB is the most."""
    monkeypatch.setattr("lightning_clr.trial.snapshot._DATA_BYTES", 1000)
    data = Replayed()
    with Snapshot() as snapshot:
        snapshot.add(data, data=True)
        data.store(torch.zeros(8), 2)

    assert torch.equal(data.x[0], torch.zeros(8))
    assert (data.y[0], data.stored) == (0, 0)
