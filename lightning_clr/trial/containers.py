"""Containers and attributes, and how their parts get back.

What has not changed is not touched; what has is put back by the methods of the built-in class, past what subclasses
forbid or make of them.
"""

import array
import collections
import ctypes
import io
from collections.abc import Callable, Iterator
from functools import partial
from operator import is_
from types import CellType, MemberDescriptorType
from typing import Any

_MISSING = object()


def container_state(value: Any) -> Callable[[], object] | None:
    """For a mutable container, what puts its present elements back; ``None`` for all else."""
    if isinstance(value, dict):
        return partial(put_back_items, value, items_of(value))
    if isinstance(value, list):
        return partial(_put_back_list, value, list.copy(value))
    if isinstance(value, collections.deque):
        return partial(_put_back_deque, value, list(collections.deque.__iter__(value)))
    if isinstance(value, set):
        return partial(_put_back_set, value, list(set.__iter__(value)))
    if isinstance(value, CellType):
        return partial(_put_back_cell, value, *contents(value))
    return _memory_state(value)


def _memory_state(value: Any) -> Callable[[], object] | None:
    """For a container of numbers or text, what puts it back."""
    if isinstance(value, bytearray | array.array):
        return partial(_put_back_numbers, value, value[:])
    if isinstance(value, io.BytesIO | io.StringIO) and not value.closed:
        return partial(_put_back_text, value, value.getvalue(), value.tell())
    if isinstance(value, ctypes._SimpleCData | ctypes.Array | ctypes.Structure):
        return partial(_put_back_memory, value, bytes(memoryview(value)))
    return None


def items_of(container: dict[Any, Any]) -> dict[Any, Any]:
    """What a dictionary holds, in its order, whatever its class makes of reading."""
    if isinstance(container, collections.OrderedDict):
        return {key: dict.__getitem__(container, key) for key in collections.OrderedDict.__iter__(container)}
    return dict.copy(container)


def contents(cell: CellType) -> tuple[Any, ...]:
    """Of a variable that a function holds on to: its value, or nothing if it has none yet."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def are_same(some: Any, others: Any) -> bool:
    """Whether two sequences of the same length hold the same objects."""
    return all(map(is_, some, others))


def put_back_items(container: dict[Any, Any], items: dict[Any, Any]) -> None:
    """Give a dictionary its items back, without a call of what its class overrides."""
    base: Any = collections.OrderedDict if isinstance(container, collections.OrderedDict) else dict
    size = dict.__len__(container)
    if (
        base is dict
        and size == len(items)
        and are_same(dict.values(container), items.values())
        and are_same(dict.__iter__(container), items)
    ):
        return
    if not (size == len(items) and are_same(base.__iter__(container), items)):
        base.clear(container)
    for key, value in items.items():
        if dict.get(container, key, _MISSING) is not value:
            base.__setitem__(container, key, value)


def put_back_members(owner: Any, members: list[tuple[MemberDescriptorType, Any]]) -> None:
    """Give an object the attributes back that are not in its ``__dict__``."""
    for member, value in members:
        if _member(member, owner) is value:
            continue
        if value is _MISSING:
            member.__delete__(owner)
        else:
            member.__set__(owner, value)


def members_of(owner: Any, members: tuple[MemberDescriptorType, ...]) -> list[tuple[MemberDescriptorType, Any]]:
    """The attributes of an object that are not in its ``__dict__``."""
    return [(member, _member(member, owner)) for member in members]


def present(members: list[tuple[MemberDescriptorType, Any]]) -> Iterator[Any]:
    """The values of those attributes that are there."""
    return (value for _, value in members if value is not _MISSING)


def _member(member: MemberDescriptorType, owner: Any) -> Any:
    try:
        return member.__get__(owner, type(owner))
    except AttributeError:
        return _MISSING


def put_back_object(owner: Any, kind: type, attributes: dict[str, Any] | None, items: dict[str, Any]) -> None:
    """Give an object its class and its ``__dict__`` back, past what its class forbids."""
    if type(owner) is not kind:  # such as a lazy module that has seen its input
        object.__setattr__(owner, "__class__", kind)
    if attributes is not None:
        if owner.__dict__ is not attributes:
            object.__setattr__(owner, "__dict__", attributes)
        put_back_items(attributes, items)


def _put_back_list(sequence: list[Any], items: list[Any]) -> None:
    if not (list.__len__(sequence) == len(items) and are_same(list.__iter__(sequence), items)):
        list.__setitem__(sequence, slice(None), items)


def _put_back_deque(queue: collections.deque[Any], items: list[Any]) -> None:
    base = collections.deque
    if not (base.__len__(queue) == len(items) and are_same(base.__iter__(queue), items)):
        base.clear(queue)
        base.extend(queue, items)


def _put_back_set(container: set[Any], items: list[Any]) -> None:
    if not (set.__len__(container) == len(items) and all(map(partial(set.__contains__, container), items))):
        set.clear(container)
        set.update(container, items)


def _put_back_numbers(numbers: Any, copy: Any) -> None:
    if numbers != copy:
        numbers[:] = copy


def _put_back_memory(numbers: Any, copy: bytes) -> None:
    if bytes(memoryview(numbers)) != copy:
        ctypes.memmove(ctypes.addressof(numbers), copy, len(copy))


def _put_back_text(buffer: Any, text: Any, position: int) -> None:
    if buffer.getvalue() != text:
        buffer.seek(0)
        buffer.truncate()
        buffer.write(text)
    buffer.seek(position)


def _put_back_cell(cell: CellType, *value: Any) -> None:
    if value and not are_same(contents(cell) or (_MISSING,), value):
        cell.cell_contents = value[0]
    elif not value and contents(cell):
        del cell.cell_contents
