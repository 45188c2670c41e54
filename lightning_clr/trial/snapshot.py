"""Remembers what training steps can change, and puts it back into the same objects.

Copies live in memory, hold only this process's shard of a tensor and need no communication. Objects of all classes are
walked through their attributes and containers. What cannot be put back is left alone as a whole, and named in a warning
if it has changed: what holds files, threads or processes, and iterators. Trainers, loggers and torch's own machinery
are kept by reference and not looked into.
"""

import functools
import os
import random
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import TracebackType
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_clr.trial.containers import container_state, members_of, put_back_members, put_back_object
from lightning_clr.trial.kinds import (
    HANDLES,
    Kind,
    Kinds,
    Standing,
    attributes_of,
    elements_of,
    glance,
    inside,
    is_like,
    progress_of,
)
from lightning_clr.trial.randomness import generator_state, rng_state, set_rng_state
from lightning_clr.trial.tensors import (
    array_state,
    bytes_in_memory,
    copied_on_write,
    has_memory,
    is_array,
    is_as_copied,
    is_rarely_written,
    local_shard,
    put_back_lazy,
    put_back_tensor,
)

_TENSOR_ATTRIBUTES = ("grad", "_backward_hooks", "_post_accumulate_grad_hooks")
_CONSTANTS = {type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size}
_EMPTY = {dict, OrderedDict, list, set}
_MANY = 100  # a longer container is looked into last
_ALLOWANCE = 1_000  # objects that each module or optimizer may hold beyond the budget
_TOLD: "weakref.WeakKeyDictionary[nn.Module, set[str]]" = weakref.WeakKeyDictionary()


class Depth(IntEnum):
    """How far a snapshot goes."""

    ALL = 0
    NO_TENSORS = 1
    DATA = 2


_DATA_BYTES = 2**26
"""Of tensors and arrays in data sets, this much is copied, such as a replay buffer; more is taken to be read only."""
_BUDGETS = {Depth.ALL: 100_000, Depth.NO_TENSORS: 1_000_000, Depth.DATA: 10_000}
"""How many parts are looked into, those of small containers first. What is beyond is data: kept by reference."""


class Snapshot:
    """A context manager that undoes, on exit, what happened to the objects added to it and to the random generators.

    Args:
        device: Where copies of tensors are kept; by default beside the original.
        users: The module, and other objects whose packages count as the user's own code, also where they are installed.
        on_write: Whether to copy no tensor before it is written to, where torch can tell. For code that rarely writes.

    Example:
        >>> class Counter(nn.Module):
        ...     seen = ()
        >>> module = Counter()
        >>> with Snapshot() as snapshot:
        ...     snapshot.add(module)
        ...     module.seen += (1,)
        >>> module.seen
        ()
    """

    def __init__(
        self, device: torch.device | str | None = None, users: Iterable[object] = (), on_write: bool = False
    ) -> None:
        self.device = device
        self.on_write = on_write
        users = tuple(users)
        self._module = next((user for user in users if isinstance(user, nn.Module)), None)
        self._kinds = Kinds(users)
        self._undo: list[Callable[[], object]] = [functools.partial(set_rng_state, rng_state())]
        self._seen: dict[tuple[int, int], Any] = {}  # holds the objects, so that ids stay theirs
        self._budgets = dict(_BUDGETS)
        self._left: list[tuple[Any, list[tuple[Any, list[Any]]]]] = []
        self._sources: set[int] = set()
        self._data_bytes = _DATA_BYTES
        self._shared: list[Tensor] = []

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failures: list[BaseException] = []
        changed = self._changed()
        with torch.no_grad():
            while self._undo:
                try:
                    self._undo.pop()()
                except BaseException as failure:  # must not keep the others from running
                    failures.append(failure)
        while self._shared:  # a touch makes memory that nobody shares any more ordinary again
            self._shared.pop().data_ptr()
        self._tell(changed)
        if failures:  # an interrupt before all others
            raise next((failure for failure in failures if not isinstance(failure, Exception)), failures[0])
        if error is not None and self.device is None and not self.on_write and _is_of_memory(error):
            raise type(error)(
                f"{error}\nThe range test keeps a copy of what training changes beside the original;"
                ' `snapshot_device="cpu"` keeps it in the memory of the host.'
            ) from error

    def add(self, value: Any, data: bool = False, tensors: bool = True) -> None:
        """Remember ``value`` and all that it reaches, the nearest and the small containers first.

        Args:
            value: Any object; it is looked into whatever its class.
            data: Whether this is part of a data set: no more than 64 MiB of its tensors and arrays are copied, and no
                more than some thousands of its objects are looked into.
            tensors: Whether to copy tensors and arrays.
        """
        depth = Depth.DATA if data else Depth.ALL if tensors else Depth.NO_TENSORS
        if data:
            self._sources.add(id(value))
        self._budgets[depth] = max(self._budgets[depth], _ALLOWANCE)
        self._visit_all(value, depth)

    def _visit_all(self, root: Any, depth: Depth) -> None:
        pending, is_root = deque([(root, depth)]), True
        while pending:
            value, depth = pending.popleft()
            if self._budgets[depth] <= 0 and not (is_root or self._kinds.of(value).is_free):
                continue
            depth, parts = self._visit(value, depth, is_root)
            is_root = False
            later = pending.extend if len(parts) > _MANY else pending.extendleft
            if len(parts) <= max(self._budgets[depth], _MANY):
                self._budgets[depth] -= len(parts)
                later([(part, depth) for part in parts if not self._is_settled(part)])

    def _is_settled(self, part: Any) -> bool:
        """Whether an object needs no visit."""
        kind = type(part)
        if kind in _EMPTY and not part and (id(part), Depth.ALL) not in self._seen:  # most of what a module has
            self._undo.append(part.clear)
            return True
        return kind in _CONSTANTS

    def _visit(self, value: Any, depth: Depth, is_root: bool = False) -> tuple[Depth, list[Any]]:
        """Remember one object; return how deep it lies, and what it consists of."""
        kind = self._kinds.of(value)
        depth = max(depth, Depth.DATA if kind.is_data else Depth.NO_TENSORS if kind.is_engine else Depth.ALL)
        if self._is_known(value, depth, is_root):
            return depth, []
        self._seen[id(value), depth] = value
        if isinstance(value, Tensor):
            return depth, self._remember_tensor(value) if self._is_copied(value, depth) else []
        self._budgets[depth] += _ALLOWANCE if kind.standing is Standing.ROLE and depth is Depth.ALL else -1
        if self._is_left(value, kind, depth, is_root):
            return depth, []
        undo = container_state(value) or generator_state(value)
        if undo is None and is_array(value) and self._is_copied(value, depth):
            undo = array_state(value)
        if undo is not None:
            self._undo.append(undo)
        if kind.is_walked:
            self.add_attributes(value)
        return depth, inside(value, kind)

    def _is_copied(self, value: Any, depth: Depth) -> bool:
        """Whether the content of a tensor or array is put back; in a data set, while there is room."""
        if depth is not Depth.DATA:
            return depth is Depth.ALL
        size = bytes_in_memory(value)
        if size is None or size > self._data_bytes:
            return False
        self._data_bytes -= size
        return True

    def _is_known(self, value: Any, depth: Depth, is_root: bool) -> bool:
        if depth is Depth.ALL and id(value) in self._sources and not is_root:
            return True
        return any((id(value), known) in self._seen for known in range(depth + 1))

    def add_attributes(self, owner: Any) -> None:
        """Remember which objects the attributes of ``owner`` are, without looking into them."""
        attributes = attributes_of(owner)
        items = {} if attributes is None else dict(attributes)
        self._undo.append(functools.partial(put_back_object, owner, type(owner), attributes, items))
        members = members_of(owner, self._kinds.of(owner).members)
        if members:
            self._undo.append(functools.partial(put_back_members, owner, members))

    def _remember_tensor(self, value: Tensor) -> list[Any]:
        if is_lazy(value):
            self._undo.append(functools.partial(put_back_lazy, value, type(value), value.data))
            return []
        held = local_shard(value)
        copy = self._kept(value, held) if has_memory(held) and not _is_under_parameters(value) else None
        attributes: dict[str, Any] = {}
        if value.is_leaf:
            attributes = {name: getattr(value, name) for name in _TENSOR_ATTRIBUTES if hasattr(value, name)}
        undo = functools.partial(put_back_tensor, value, copy, value.requires_grad, attributes, held, value.is_leaf)
        self._undo.append(undo)
        parts = [*attributes.values()]
        own = value.__dict__ if type(value) in (Tensor, nn.Parameter) and not _is_of_engine(value) else {}
        return [*parts, own] if own else parts

    def _kept(self, tensor: Tensor, shard: Tensor) -> Tensor:
        """A copy of the local shard of a tensor."""
        copy = None
        if self.device is None and (self.on_write or is_rarely_written(tensor)):
            copy = copied_on_write(shard)
            if copy is not None:
                self._shared.append(shard)
        return self._copy(shard) if copy is None else copy

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.clone() if self.device is None else tensor.to(self.device, copy=True)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Hold no copies of what has not changed so far while the block, which puts it back itself, runs."""
        lent = []
        for index, undo in enumerate(self._undo):
            if isinstance(undo, functools.partial) and undo.func is put_back_tensor and undo.args[1] is not None:
                tensor, copy, *rest = undo.args
                if is_as_copied(tensor, rest[2], copy):
                    self._undo[index] = functools.partial(put_back_tensor, tensor, None, *rest)
                    lent.append(index)
        undo = tensor = copy = rest = None  # type: ignore[assignment]
        try:
            yield
        finally:
            for index in lent:
                tensor, _, *rest = self._undo[index].args  # type: ignore[attr-defined]
                self._undo[index] = functools.partial(put_back_tensor, tensor, self._kept(tensor, rest[2]), *rest)

    def _is_left(self, value: Any, kind: Kind, depth: Depth, is_root: bool) -> bool:
        """Whether an object is to be left alone as a whole; it is watched then."""
        if kind.standing in HANDLES or progress_of(value) is not None:
            whole: list[Any] | None = [value]
        elif is_root or depth is Depth.NO_TENSORS:
            return False
        elif kind.standing is Standing.OWN and depth is Depth.ALL:
            whole = self._kinds.with_resources(value)
        elif kind.standing is Standing.INSTALLED:
            whole = self._kinds.with_handles(value)
        else:
            return False
        if whole is not None and depth is Depth.ALL:
            self._left.append((value, [(part, glance(part, self._kinds.of(part))) for part in whole]))
        return whole is not None

    def _changed(self) -> list[Any]:
        """What was left alone, and is not as it was."""
        of_data = {number for number, depth in self._seen if depth is Depth.DATA}
        return [
            value
            for value, parts in self._left
            if id(value) not in of_data
            and not all(is_like(glance(part, self._kinds.of(part)), before) for part, before in parts)
        ]

    def _tell(self, changed: list[Any]) -> None:
        told = set() if self._module is None else _TOLD.setdefault(self._module, set())
        names = [name for name in dict.fromkeys(map(self._name, changed)) if name not in told]
        told.update(names)
        if names:
            rank_zero_warn(
                f"The range test cannot put back {', '.join(names)}: it keeps what the steps of the test have done to"
                " it. Iterators, and objects that hold files, threads, locks, processes or memory of another language,"
                " are left alone as a whole. If training depends on it, make it anew in `on_train_start`."
            )

    def _name(self, value: Any) -> str:
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        for owner in self._seen.values():
            for name, part in (attributes_of(owner) or {}).items() if self._kinds.of(owner).is_walked else ():
                if part is value or (isinstance(part, list | tuple | dict) and _is_in(value, part)):
                    return f"`{type(owner).__name__}.{name}` ({kind})"
        return kind

    def replace(self, owner: Any, **attributes: Any) -> None:
        """Give an object other attributes until the end."""
        for name, value in attributes.items():
            self._undo.append(functools.partial(setattr, owner, name, getattr(owner, name)))
            setattr(owner, name, value)

    def finally_do(self, undo: Callable[[], object]) -> None:
        """Call this at the end, before what was remembered earlier is put back."""
        self._undo.append(undo)

    def can_rewind(self, source: Any, beside: Iterable[object] = ()) -> bool:
        """Whether a data source is put back when it is added: nothing in it but data, functions, random generators.

        Args:
            source: The data source.
            beside: Objects in it that do not count.

        Example:
            >>> Snapshot().can_rewind([1, 2]), Snapshot().can_rewind(iter([1, 2]))
            (True, False)
        """
        return all(
            not is_used_up(value)
            and (_is_inert(value) or self._kinds.of(value).is_known or elements_of(value) is not None)
            for value in self.reached(source, beside)
        )

    def leave(self, source: Any, but: Iterable[object] = ()) -> None:
        """Do not put back what a data source consists of, wherever else it is held; for one that is read on."""
        for value in self.reached(source, but, installed=True):
            self._seen.update({(id(value), depth): value for depth in Depth})

    def reached(self, source: Any, but: Iterable[object] = (), installed: bool = False) -> Iterator[Any]:
        """A value and all that it consists of, the nearest and the small containers first, as far as the budget goes.

        Args:
            source: The value.
            but: Objects that are left out, with what they hold.
            installed: Whether to look into objects of installed packages, too.
        """
        pending, budget = deque([source]), _BUDGETS[Depth.DATA]
        seen = {id(value): value for value in but}  # holds the objects, so that ids stay theirs
        while pending and budget > 0:
            value = pending.popleft()
            if id(value) in seen:
                continue
            seen[id(value)] = value
            yield value
            kind = self._kinds.of(value)
            is_opaque = kind.standing is Standing.INSTALLED and not installed and elements_of(value) is None
            parts = [] if is_opaque or is_array(value) else inside(value, kind)
            budget -= 1
            if len(parts) <= budget:
                budget -= len(parts)
                later = pending.extend if len(parts) > _MANY else pending.extendleft
                later(part for part in parts if type(part) not in _CONSTANTS)


def is_used_up(value: Any) -> bool:
    """Whether reading takes away from a value: an iterator, an open file, a queue, a connection."""
    kind = type(value)
    return hasattr(kind, "__next__") or hasattr(kind, "recv") or (hasattr(kind, "get") and hasattr(kind, "put"))


def _is_of_engine(value: Any) -> bool:
    """Whether FSDP or DeepSpeed keeps its own books on a parameter, in the parameter's attributes."""
    return hasattr(value, "_is_flat_param") or hasattr(value, "ds_id")


def _is_under_parameters(value: Any) -> bool:
    """Whether this is a flat parameter of FSDP whose memory is that of the module's own, which are remembered."""
    return getattr(value, "_is_flat_param", False) and value._params is not None


def _is_inert(value: Any) -> bool:
    """Whether using a value cannot move it on: a number, a string, an array, a random generator, a function."""
    constants = (str, bytes, int, float, complex, range, os.PathLike, torch.dtype, torch.device, Tensor, random.Random)
    inert = value is None or isinstance(value, constants) or is_array(value) or callable(value)
    return inert or generator_state(value) is not None


def _is_in(value: Any, container: Any) -> bool:
    return any(part is value for part in elements_of(container) or ())


def _is_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, RuntimeError | MemoryError) and ("out of memory" in text or "allocate memory" in text)
