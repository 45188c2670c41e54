"""The data of a trial: read afresh where they can start over, and otherwise kept and handed out again."""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_clr.lightning import Trainer
from lightning_clr.trial.snapshot import Snapshot, rng_state, same_rng_state, set_rng_state


def remember_data(snapshot: Snapshot, trainer: Trainer) -> None:
    """Everything in data sets and loaders that reading can change."""
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop):
        for loader in loop._combined_loader.flattened if loop._combined_loader is not None else ():
            snapshot.add(getattr(loader, "dataset", loader), data=True)
            if isinstance(loader, DataLoader):
                for part in (loader.sampler, loader.batch_sampler, loader.generator, loader.collate_fn):
                    snapshot.add(part)


@contextmanager
def trial_data(real: Any, loop: Any, snapshot: Snapshot) -> Iterator[None]:
    """Give the shadow loop data of its own, so that the real iterators stay where they are.

    What can start over is iterated afresh. A stream that cannot is read, and its batches are handed out again.
    """
    tees = {}
    flattened = []
    for index, loader in enumerate(real._combined_loader.flattened):
        if can_start_over(loader, snapshot):
            flattened.append(_fresh(loader))
        else:
            tees[index] = _Tee(real._combined_loader._iterator.iterators[index])
            flattened.append(tees[index])
    loop._data_source, loop.max_batches = real._data_source, real.max_batches
    loop._combined_loader = _combined(real._combined_loader, flattened)
    loop._data_fetcher = type(real._data_fetcher)()
    loop._data_fetcher.setup(loop._combined_loader)
    real_val, val = real.epoch_loop.val_loop, loop.epoch_loop.val_loop
    val._data_source = real_val._data_source
    if real_val._combined_loader is not None:
        val._combined_loader = _combined(real_val._combined_loader, map(_fresh, real_val._combined_loader.flattened))
        val._max_batches = real_val._max_batches
    try:
        iter(loop._data_fetcher)
        loop.epoch_loop.reset()
        yield
    finally:
        for index, tee in tees.items():
            real._combined_loader._iterator.iterators[index] = _Replay(tee)
        if loop._combined_loader._iterator is not None:  # else its making has failed
            loop._data_fetcher.teardown()
        if val._combined_loader is not None:
            val._combined_loader.reset()


def can_start_over(loader: Any, snapshot: Snapshot) -> bool:
    """Whether a loader can be read now and again later, from the start each time."""
    if isinstance(loader, DataLoader):
        streams = isinstance(loader.dataset, IterableDataset) and loader.num_workers == 0
        return not streams or snapshot.can_rewind(loader.dataset)
    return snapshot.can_rewind(loader)


def _fresh(loader: Any) -> Any:
    if isinstance(loader, DataLoader):
        loader = copy.copy(loader)
        loader._iterator = None  # persistent workers belong to the original
    return loader


def _combined(real: Any, loaders: Any) -> Any:
    combined = type(real)(real.iterables, real._mode)
    combined.flattened = list(loaders)
    combined.limits = real.limits
    return combined


class _Tee:
    """Iterates over a live stream and keeps what it takes; a second pass starts again with what was kept."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream = stream
        self.kept: list[Any] = []
        self.exhausted = False
        self.rng_around_first: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[Any]:
        for batch in [*self.kept]:
            yield _cloned(batch)
        while not self.exhausted:
            before = {} if self.kept else rng_state()
            try:
                batch = next(self.stream)
            except StopIteration:
                self.exhausted = True
                return
            if not self.kept:
                self.rng_around_first = [before, rng_state()]
            self.kept.append(batch)
            yield _cloned(batch)  # training steps may write into their batch


class _Replay:
    """What real training gets in place of a stream that a trial has read from: its batches, then the rest."""

    def __init__(self, tee: _Tee) -> None:
        self.tee = tee
        self.kept = iter(tee.kept)
        self.started = False

    def __iter__(self) -> "_Replay":
        return self

    def __next__(self) -> Any:
        for batch in self.kept:
            if not self.started:
                self._draw_as_the_stream_did()
            return batch
        if self.tee.exhausted:
            raise StopIteration
        return next(self.tee.stream)

    def _draw_as_the_stream_did(self) -> None:
        """A stream that shuffles draws from the global generators when it starts: let them move as they would have."""
        self.started = True
        before, after = self.tee.rng_around_first
        if same_rng_state(before, rng_state()):
            set_rng_state(after)


def _cloned(batch: Any) -> Any:
    arrays = (Tensor, sys.modules["numpy"].ndarray) if "numpy" in sys.modules else Tensor
    return apply_to_collection(batch, arrays, copy.deepcopy)
