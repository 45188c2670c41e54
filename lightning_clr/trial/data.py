"""The data of a trial: read afresh where they can start over, and otherwise read on, to be handed out again.

What is not known to start over is read through the iterator that training has opened already; no second one is opened,
which would take items from the first, or wait for its locks.
"""

import copy
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_clr.lightning import LightningModule, Trainer, accumulated_batches, torch_optimizers
from lightning_clr.trial.replay import Live, Replay, Terms
from lightning_clr.trial.snapshot import Snapshot, is_used_up

_OF_LOADERS = {*vars(DataLoader([]))} - {"sampler", "batch_sampler", "generator", "collate_fn"}  # type: ignore[arg-type]

_ENOUGH = 5_000  # objects of a map-style data set are looked at, those nearest to it: the others are records


class TrialData:
    """The data of a trial, and what is to become of the trainer's.

    Args:
        trainer: The trainer that is about to train.
        module: Its LightningModule.
        snapshot: What puts everything else back.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, snapshot: Snapshot) -> None:
        self._trainer = trainer
        self._module = module
        self._snapshot = snapshot
        self._real: Any = trainer.fit_loop
        loaders: list[Any] = trainer.fit_loop._combined_loader.flattened  # type: ignore[union-attr]
        self._streams = [index for index, loader in enumerate(loaders) if not self._can_be_read_twice(loader)]

    def remember(self) -> None:
        """Let the snapshot put back all that reading afresh changes, and leave alone what is read on.

        To be called before the snapshot is told of anything else, which may hold the data.
        """
        loaders = self._real._combined_loader.flattened
        for index in self._streams:
            self._snapshot.leave(_read_here(loaders[index]), self._restored())
        for loader in loaders + self._val_loaders:
            self._snapshot.add(getattr(loader, "dataset", loader), data=True)
            for part in _parts(loader):
                self._snapshot.add(part)

    @contextmanager
    def read(self, loop: Any) -> Iterator[None]:
        """Give the shadow loop data of its own, so that the real iterators stay where they are."""
        real, combined = self._real, self._real._combined_loader
        loaders = list(map(_fresh, combined.flattened))
        live, terms = dict[int, Live](), self._terms()
        taken = terms.copied([*getattr(real._data_fetcher, "batches", ())])[0] if self._streams else []
        ahead = _taken_ahead(combined, taken)
        for index in self._streams:
            live[index] = Live(combined._iterator.iterators[index], ahead.get(index, []), terms)
            loaders[index] = _reading(combined.flattened[index], live[index].batches)
        loop._data_source, loop.max_batches = real._data_source, real.max_batches
        loop._combined_loader = _combined(combined, loaders)
        loop._data_fetcher = type(real._data_fetcher)()
        loop._data_fetcher.setup(loop._combined_loader)
        real_val, val = real.epoch_loop.val_loop, loop.epoch_loop.val_loop
        val._data_source = real_val._data_source
        if real_val._combined_loader is not None:
            val._combined_loader = _combined(real_val._combined_loader, map(_fresh, self._val_loaders))
            val._max_batches = real_val._max_batches
        try:
            iter(loop._data_fetcher)
            loop.epoch_loop.reset()
            yield
        finally:
            for index, stream in live.items():
                combined._iterator.iterators[index] = Replay(stream, functools.partial(iter, combined.flattened[index]))
            if taken:  # from streams, some of which write the next batch into the memory of the last
                real._data_fetcher.batches = taken
            if loop._combined_loader._iterator is not None:  # else its making has failed
                loop._data_fetcher.teardown()
            if val._combined_loader is not None:
                val._combined_loader.reset()
        for stream in live.values():
            stream.tell()

    @property
    def can_validate(self) -> bool:
        """Whether the validation data can start over, so that reading them does no harm."""
        return all(self._can_start_over(loader) for loader in self._val_loaders)

    @property
    def _val_loaders(self) -> list[Any]:
        combined = self._real.epoch_loop.val_loop._combined_loader
        return [] if combined is None else combined.flattened

    def _can_be_read_twice(self, loader: Any) -> bool:
        """Whether a second iterator may be opened beside the one that training has opened.

        Workers of a stream may have opened connections and taken locks of which the data set in this process shows
        nothing: theirs is read on.
        """
        has_open_workers = isinstance(loader, DataLoader) and loader.num_workers > 0
        return self._can_start_over(loader) and not (has_open_workers and isinstance(loader.dataset, IterableDataset))

    def _can_start_over(self, loader: Any) -> bool:
        """Whether a loader can be read now and again later, from the start each time.

        A map-style data set can, unless something is found that is used up by reading.
        """
        source: Any = getattr(loader, "dataset", loader) if isinstance(loader, DataLoader) else loader
        if not isinstance(loader, DataLoader) or isinstance(source, IterableDataset):
            return self._snapshot.can_rewind(source, [self._trainer]) and not any(map(is_used_up, _globals(source)))
        beside = (self._trainer, self._module, self._datamodule)
        reached = self._snapshot.reached([source, *_parts(loader)], beside)
        return not any(map(is_used_up, (*itertools.islice(reached, _ENOUGH), *_globals(source))))

    @property
    def _datamodule(self) -> Any:
        return self._trainer.datamodule  # type: ignore[attr-defined]

    def _restored(self) -> list[Any]:
        """What is put back in any case, also where it is part of what is read on."""
        module, trainer = self._module, self._trainer
        tensors = (*module.parameters(), *module.buffers())
        return [trainer, self._datamodule, *module.modules(), *tensors, *torch_optimizers(trainer)]

    def _terms(self) -> Terms:
        trainer, module = self._trainer, self._module
        steps = trainer.max_steps if trainer.max_steps >= 0 else math.inf
        trained = [part for part in module.modules() if any(weight.requires_grad for weight in part.parameters())]
        loaders = self._real._combined_loader.flattened
        shared = [*loaders, *(getattr(loader, "dataset", loader) for loader in loaders), *self._restored()]
        return Terms(max(1, steps * accumulated_batches(trainer)[0]), trained, shared, trainer.global_rank)


def _globals(source: Any) -> list[Any]:
    """The global variables that the methods of a data source's class name."""
    values = []
    for kind in type(source).__mro__:
        if kind.__module__.partition(".")[0] not in ("builtins", "torch"):
            for method in filter(inspect.isfunction, vars(kind).values()):
                values += [method.__globals__[name] for name in method.__code__.co_names if name in method.__globals__]
    return values


def start_epoch(combined: Any, epoch: int) -> None:
    """Tell samplers which epoch it is, as Lightning does."""
    for loader in combined.flattened:
        batch_sampler: Any = getattr(loader, "batch_sampler", None)
        samplers: list[Any] = [getattr(loader, "sampler", None), batch_sampler]
        for sampler in (*samplers, getattr(batch_sampler, "sampler", None)):
            if callable(getattr(sampler, "set_epoch", None)):
                sampler.set_epoch(epoch)


def _parts(loader: Any) -> list[Any]:
    """What a loader has beside its data set: samplers, generator, collate function, and what a subclass has added."""
    if not isinstance(loader, DataLoader):
        return []
    return [part for name, part in vars(loader).items() if name not in _OF_LOADERS]


def _read_here(loader: Any) -> list[Any]:
    """What moves on in this process when a loader is read."""
    if not isinstance(loader, DataLoader):
        return [loader]
    return [*_parts(loader), *([] if loader.num_workers else [loader.dataset])]


def _taken_ahead(combined: Any, batches: list[Any]) -> dict[int, list[Any]]:
    """Of each loader, the batches that the fetcher has read already, to know which one is the last."""
    places = copy.copy(combined)
    places.flattened = [*range(len(places.flattened))]
    taken: dict[int, list[Any]] = {}
    for batch, *_ in batches:
        for index, part in _split(batch, places.iterables):
            taken.setdefault(index, []).append(part)
    return taken


def _split(batch: Any, places: Any) -> list[tuple[int, Any]]:
    """The parts of a batch that come from several loaders, with their number."""
    if isinstance(places, int):
        return [(places, batch)]
    keys = places if isinstance(places, Mapping) else range(len(places))
    return [pair for key in keys for pair in _split(batch[key], places[key])]


def _combined(real: Any, loaders: Iterable[Any]) -> Any:
    combined = copy.copy(real)
    combined._iterator = None
    combined.flattened = list(loaders)
    return combined


def _fresh(loader: Any) -> Any:
    """A loader to be iterated afresh, whose workers start once, since the epochs of a trial are short."""
    if not isinstance(loader, DataLoader):
        return loader
    twin = _twin(loader, _Restarting)
    if loader.num_workers > 0 and not loader.persistent_workers:
        vars(twin)["persistent_workers"] = True  # which may not be set after the making
        twin._draws_seeds = True
    return twin


def _reading(loader: Any, batches: Callable[[], Iterator[Any]]) -> Any:
    """A loader that gives other batches."""
    twin = _twin(loader, _Reading) if isinstance(loader, DataLoader) else _Stand(loader)
    twin._batches = batches
    return twin


def _twin(loader: Any, mixin: type) -> Any:
    """A copy that is of the loader's class for all who ask, with another ``__iter__``."""
    kind = type(type(loader).__name__, (mixin, type(loader)), {"__module__": type(loader).__module__})
    twin: Any = object.__new__(kind)
    vars(twin).update(vars(loader), _iterator=None)  # persistent workers belong to the original
    return twin


class _Restarting:
    """Draws seeds for workers at each start, as if they were new."""

    _draws_seeds = False
    generator: torch.Generator | None
    _iterator: Any

    def __iter__(self) -> Iterator[Any]:
        if self._draws_seeds and self._iterator is not None:
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        return super().__iter__()  # type: ignore[misc, no-any-return]


class _Reading:
    _batches: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self._batches()


class _Stand(_Reading):
    """In place of an iterable that is no DataLoader; whatever else is asked of it, the original answers."""

    _iterator = None  # Lightning ends the workers of what has one

    def __init__(self, source: Any) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __len__(self) -> int:
        return len(self._source)
