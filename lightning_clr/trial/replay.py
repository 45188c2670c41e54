"""Batches that a trial reads from a live iterator, and that training is handed afterwards as if they were read then."""

import collections
import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.nn.modules.module import register_module_forward_pre_hook

from lightning_clr.trial.randomness import rng_state, set_rng_state

_MUCH = 2**30
"""Bytes held by one process, of which it warns: a gibibyte."""


class Terms:
    """What all live iterators of a trial have in common.

    Args:
        most: How many batches training will read of any at most.
        weights: The modules whose weights the trial changes.
        shared: What batches may refer to, and is not copied with them.
        rank: Of this process, for messages.
    """

    def __init__(self, most: float, weights: Iterable[Module], shared: Iterable[Any], rank: int) -> None:
        self.most = most
        self.weights = {id(module) for module in weights}
        self.shared = [*shared]
        self.num_bytes = 0
        self.told: set[str] = set()
        self.not_copied: set[str] = set()
        self._rank = rank

    def copied(self, batch: Any) -> tuple[Any, list[Any]]:
        """A copy, and all that was copied for it."""
        memo: dict[int, Any] = {id(value): value for value in self.shared}
        copied = deep_copy(batch, memo, self.not_copied)
        memo.pop(id(memo), None)  # the originals
        return copied, [copied, *memo.values()]

    def hold(self, held: Iterable[Any]) -> None:
        """Count what is held, and tell once when it is much."""
        self.num_bytes += num_bytes(held, self.shared)
        if self.num_bytes > _MUCH:
            self.tell(
                "The training data are not known to be able to start over, so the range test keeps the batches that it"
                f" reads and hands them to training: rank {self._rank} holds more than {_MUCH / 2**30:g} GiB of them."
                " If memory is short, lower `num_steps` or the batch size, or use a data set that can start over."
            )

    def tell(self, message: str) -> None:
        """Warn, once in all trials of a training."""
        if message not in self.told:
            self.told.add(message)
            warnings.warn(message, stacklevel=2)


class Live:
    """An iterator that training has opened already, and what a trial reads from it.

    Args:
        stream: The iterator.
        ahead: Batches that training has taken from it already, but not yet trained on.
        terms: What it has in common with others.
    """

    def __init__(self, stream: Iterator[Any], ahead: list[Any], terms: Terms) -> None:
        if isinstance(stream, Replay):
            terms.told |= stream.told  # by an earlier trial
        self.stream = stream
        self.terms: Terms = terms
        self.kept = collections.deque[tuple[Any, _Draws]]()
        self.exhausted = False
        self.made_by_module = False
        self.ahead = ahead

    def batches(self) -> Iterator[Any]:
        """The batches of an epoch, copies all: those read by now, and then whatever the stream still has."""
        for batch in [*self.ahead, *(batch for batch, _ in self.kept)]:
            yield self.terms.copied(batch)[0]
        while not self.exhausted and len(self.ahead) + len(self.kept) < self.terms.most:
            draws = _Draws()
            try:
                with self._module_watched():
                    batch = next(self.stream)
            except StopIteration:
                self.exhausted = True
                return
            draws.end()
            if isinstance(self.stream, Replay) and self.stream.draws is not None:
                draws = self.stream.draws  # of the time when it was read, which may have been another state
            self.kept.append((batch, draws))  # now, so that it is not lost whatever happens
            copied, held = self.terms.copied(batch)
            self.kept[-1] = (copied, draws)  # a stream may write its next batch into the memory of this one
            self.terms.hold(held)
            yield self.terms.copied(copied)[0]  # training steps may write into their batch

    def tell(self) -> None:
        """Warn of what training will not see as it would have."""
        if self.terms.not_copied:
            self.terms.tell(
                "The training data are not known to be able to start over, and their batches hold what cannot be"
                f" copied ({', '.join(sorted(self.terms.not_copied))}): training is given it as the range test left it."
            )
        if self.made_by_module:
            self.terms.tell(
                "The training data are made with the weights that are trained, and reach what cannot be put back: the"
                " batches that the range test has read are left out, and training starts where it left their source."
            )

    @contextmanager
    def _module_watched(self) -> Iterator[None]:
        """Notice whether a batch is made with weights that the trial changes."""

        def notice(module: Module, args: Any) -> None:
            self.made_by_module |= id(module) in self.terms.weights

        handle = register_module_forward_pre_hook(notice)
        try:
            yield
        finally:
            handle.remove()


class Replay:
    """What training gets in place of a stream: batches that were kept, released as they are handed out; then the rest.

    It takes all of this from ``live``, which the loops of the trial hold until some garbage collection. Workers end
    when nobody has their iterator any more; a collection that ends them waits for five seconds.

    Args:
        live: What was read.
        start_over: Opens the stream again.
    """

    def __init__(self, live: Live, start_over: Callable[[], Iterator[Any]]) -> None:
        self.told = live.terms.told
        self.draws: _Draws | None = None
        """The random numbers that the last batch has taken, if it was kept."""
        self._kept, self._stream, self._exhausted = live.kept, live.stream, live.exhausted
        if live.made_by_module:  # with weights that are undone
            self._kept.clear()
            self._stream, self._exhausted = start_over(), False
            for _ in live.ahead:  # training has these of the epoch already
                next(self._stream, None)
        live.kept, live.stream, live.ahead = collections.deque(), iter(()), []

    def __iter__(self) -> "Replay":
        return self

    def __next__(self) -> Any:
        if self._kept:
            batch, self.draws = self._kept.popleft()
            self.draws.repeat()
            return batch
        self.draws = None
        if self._exhausted:
            raise StopIteration
        return next(self._stream)


class _Draws:
    """The random numbers drawn from the global generators while a batch was read.

    Those generators move on when the batch is handed out, where they stand as they stood then: as they would have.
    """

    def __init__(self) -> None:
        self.before, self.after = rng_state(), dict[str, Any]()

    def end(self) -> None:
        now = rng_state()
        self.after = {name: state for name, state in now.items() if not _same(state, self.before.get(name))}
        self.before = {name: self.before.get(name) for name in self.after}

    def repeat(self) -> None:
        if self.after:
            now = rng_state()
            moved = {name: state for name, state in self.after.items() if _same(now.get(name), self.before[name])}
            set_rng_state({**now, **moved})


def _same(one: Any, other: Any) -> bool:
    """Whether two states of a generator are equal; at every batch, so it must be fast."""
    if hasattr(one, "tolist"):
        return type(one) is type(other) and bool((one == other).all())
    if isinstance(one, tuple | list) and any(hasattr(part, "tolist") for part in one):
        return type(one) is type(other) and all(map(_same, one, other))
    return bool(one == other)


def deep_copy(value: Any, memo: dict[int, Any], not_copied: set[str]) -> Any:
    """A copy of whatever it is, part by part where it refuses as a whole; parts that cannot be copied stay themselves.

    Args:
        value: Any object.
        memo: What has been copied, as for ``copy.deepcopy``.
        not_copied: Takes the names of the classes that cannot be.
    """
    attempt = {**memo}
    try:
        copied = copy.deepcopy(value, attempt)
        originals = attempt.pop(id(attempt), [])  # which are kept alive there
        memo.update(attempt)
        memo.setdefault(id(memo), []).extend(originals)
        return copied
    except Exception:  # leaves half copies in its memo
        pass
    try:
        copied = _copied_by_parts(value, lambda part: deep_copy(part, memo, not_copied))
    except Exception:  # a lock, a generator, a file
        not_copied.add(type(value).__qualname__)
        copied = value
    memo[id(value)] = copied
    return copied


def _copied_by_parts(value: Any, copied: Callable[[Any], Any]) -> Any:
    if isinstance(value, Tensor):  # with a history
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, tuple):
        parts = map(copied, value)
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
    if type(value) is list:
        return [*map(copied, value)]
    if type(value) is dict:
        return {key: copied(part) for key, part in value.items()}
    twin = copy.copy(value)
    vars(twin).update({name: copied(part) for name, part in vars(value).items()})
    return twin


def num_bytes(values: Iterable[Any], but: Iterable[Any]) -> int:
    """What is held in tensors, arrays, bytes and strings, and in containers of these, without some objects."""
    seen, pending, total = {id(value) for value in but}, [*values], 0
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping | list | tuple):
            pending += [*value.values()] if isinstance(value, Mapping) else value
        elif isinstance(value, bytes | str):
            total += len(value)
        elif isinstance(size := getattr(value, "nbytes", None), int):
            total += size
    return total
