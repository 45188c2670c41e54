"""What a snapshot makes of an object: looked into, left alone as a whole, or none of its business."""

import argparse
import collections
import enum
import functools
import io
import itertools
import operator
import site
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_clr.trial.containers import contents, items_of, members_of, present
from lightning_clr.trial.tensors import is_array

_ROLES = (nn.Module, Optimizer, LRScheduler, Sampler, Dataset, DataLoader, torch.amp.GradScaler)
_HELD = (types.SimpleNamespace, argparse.Namespace, collections.UserDict, collections.UserList, collections.ChainMap)
_LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics", "lightning_clr"}
_MACHINERY = {"Trainer", "Strategy", "Logger", "Profiler", "Accelerator", "_Loop", "Fabric"}
_STATEFUL_TORCH = ("torch.nn.", "torch.optim.", "torch.utils.data.", "torch.amp.")
_HOOK_STATES = "torch.distributed.algorithms."  # which name process groups, but hold none
ENGINES = {"deepspeed"}
_NEVER = (type, types.ModuleType, BaseException, enum.Enum, types.CodeType, types.FrameType, types.TracebackType)
_LOCKS = {"lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Event", "Barrier", "local", "_local"}
_RESOURCES = {"_io", "io", "threading", "socket", "_socket", "ssl", "_ssl", "subprocess", "multiprocessing", "mmap"}
_RESOURCES |= {"_multiprocessing", "concurrent", "asyncio", "_asyncio", "queue", "_queue", "sqlite3", "select"}
_RESOURCES |= {"tempfile", "zipfile", "tarfile", "gzip", "h5py", "lmdb", "zmq"}
_FOREIGN = {"pybind11_type", "nb_type", "SwigPyObject"}  # made and unmade by code that knows nothing of Python
_Member = types.MemberDescriptorType
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, Tensor)
_FEW = 100  # elements of a container that is looked through for handles
_ISLAND = 2_000  # objects


class Standing(enum.Enum):
    """How a snapshot treats the objects of a class."""

    CONSTANT = enum.auto()
    ROLE = enum.auto()  # looked into, whatever it holds
    OWN = enum.auto()  # of the user
    INSTALLED = enum.auto()
    LOCK = enum.auto()
    RESOURCE = enum.auto()  # a thread, a process, a socket, a file


HANDLES = {Standing.LOCK, Standing.RESOURCE}


@dataclass(frozen=True)
class Kind:
    """What a snapshot knows of a class."""

    standing: Standing
    members: tuple[types.MemberDescriptorType, ...]
    """Its attributes that are not in ``__dict__``."""
    is_data: bool
    is_engine: bool
    is_loader: bool
    is_free: bool
    """Whether its objects are remembered beyond any budget."""

    @property
    def is_known(self) -> bool:
        """Whether all that matters in its objects is in their attributes."""
        return self.standing in (Standing.ROLE, Standing.OWN) and not self.is_loader

    @property
    def is_walked(self) -> bool:
        """Whether attributes are looked into."""
        return self.standing in (Standing.ROLE, Standing.OWN, Standing.INSTALLED)


class Kinds:
    """Sorts objects by their classes.

    Args:
        users: Objects whose packages count as the user's own code, also where they are installed.
    """

    def __init__(self, users: Iterable[object] = ()) -> None:
        self._users_packages = {_package(kind) for value in users for kind in type(value).__mro__}
        self.of_class = functools.cache(self._of_class)
        self._harmless = dict[int, Any]()  # holds the objects, so that ids stay theirs

    def of(self, value: Any) -> Kind:
        """What is known of the class of a value."""
        return self.of_class(type(value))  # type: ignore[arg-type]

    def _of_class(self, kind: type) -> Kind:
        slotted = [base for base in kind.__mro__ if "__slots__" in vars(base)]
        members = [part for base in slotted for part in vars(base).values() if isinstance(part, _Member)]
        is_engine = _package(kind) in ENGINES and not issubclass(kind, nn.Module | Optimizer)
        is_free = issubclass(kind, Tensor | nn.Module | Optimizer)
        is_data = issubclass(kind, Dataset | DataLoader)
        return Kind(self._standing(kind), tuple(members), is_data, is_engine, issubclass(kind, DataLoader), is_free)

    def with_resources(self, value: Any) -> list[Any] | None:
        """The object, if it holds files, threads, processes or sockets itself; locks are no hindrance."""
        parts = inside(value, self.of(value))
        held = [*parts, *(element for part in parts for element in _few(part))]
        return [value] if any(self.of(part).standing is Standing.RESOURCE for part in held) else None

    def with_handles(self, value: Any) -> list[Any] | None:
        """All installed objects that an installed one reaches, if any of them holds a lock, a file, a thread..."""
        whole, pending, seen, found = list[Any](), [value], dict[int, Any](), False
        while pending and len(seen) < _ISLAND:
            part = pending.pop()
            kind = self.of(part)
            if id(part) in seen or id(part) in self._harmless or kind.standing in (Standing.ROLE, Standing.OWN):
                continue
            seen[id(part)] = part
            found = found or kind.standing in HANDLES
            if kind.standing is Standing.INSTALLED:
                whole.append(part)
            if kind.standing not in HANDLES:
                pending += [inner for inner in inside(part, kind) if not isinstance(inner, _PLAIN)]
        if not found:
            self._harmless.update(seen)
        return whole if found else None

    def _standing(self, kind: type) -> Standing:
        if issubclass(kind, _ROLES) or any(base.__name__ == "LightningDataModule" for base in kind.__mro__):
            return Standing.ROLE
        if issubclass(kind, _NEVER) or any(
            base.__name__ in _MACHINERY and _package(base) in _LIGHTNING for base in kind.__mro__
        ):
            return Standing.CONSTANT
        return _handle(kind) or self._of_objects(kind)

    def _of_objects(self, kind: type) -> Standing:
        package = _package(kind)
        if issubclass(kind, _HELD) or package in {"__main__"} | ENGINES:
            return Standing.OWN
        if _module(kind).startswith(_HOOK_STATES):
            return Standing.OWN
        if package == "torch":
            return Standing.INSTALLED if _module(kind).startswith(_STATEFUL_TORCH) else Standing.CONSTANT
        if package in _LIGHTNING or package in sys.stdlib_module_names:
            return Standing.CONSTANT
        is_users = package in self._users_packages or _is_users_code(_module(kind))
        return Standing.OWN if is_users else Standing.INSTALLED


def _module(kind: type) -> str:
    return str(getattr(kind, "__module__", ""))


def _package(kind: type) -> str:
    return _module(kind).partition(".")[0]


@functools.cache
def _is_users_code(module: str) -> bool:
    if module == "__main__":
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    paths = sysconfig.get_paths()
    installed = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    return file is not None and not file.startswith(tuple(installed))


def _handle(kind: type) -> Standing | None:
    for base in kind.__mro__:
        package = _package(base)
        if package in {"threading", "_thread", "multiprocessing"} and base.__name__ in _LOCKS:
            return Standing.LOCK
        if _module(base) == "multiprocessing.sharedctypes":  # a number beside a lock
            return Standing.OWN
        if package in _RESOURCES and not issubclass(kind, io.BytesIO | io.StringIO):
            return Standing.RESOURCE
        if type(base).__name__ in _FOREIGN or base.__name__ in _FOREIGN:
            return Standing.LOCK if package != "torch" else None
    return None


def attributes_of(value: Any) -> dict[str, Any] | None:
    """The ``__dict__`` of an object; ``None`` if it has none of its own."""
    attributes = getattr(value, "__dict__", None)
    return attributes if type(attributes) is dict else None


def elements_of(value: Any) -> Iterable[Any] | None:
    """What a container or a function holds; ``None`` if a value is neither."""
    if isinstance(value, dict):
        return items_of(value).values()
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        return value if type(value) in (list, tuple) else _iterated(value)
    if isinstance(value, types.MappingProxyType):
        return value.values()
    return captured(value)


def _iterated(value: Any) -> list[Any]:
    base = next(base for base in (list, tuple, set, frozenset, collections.deque) if isinstance(value, base))
    return list(base.__iter__(value))


def captured(value: Any) -> Iterable[Any] | None:
    """What a function holds on to."""
    if isinstance(value, types.FunctionType):
        return *(value.__closure__ or ()), *(value.__defaults__ or ()), value.__kwdefaults__, value.__dict__
    if isinstance(value, functools.partial):
        return value.func, *value.args, *value.keywords.values()
    if isinstance(value, types.MethodType):
        return value.__self__, value.__func__
    if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
        return () if isinstance(value.__self__, types.ModuleType | type) else (value.__self__,)
    if isinstance(value, types.CellType):
        return contents(value)
    return None


def inside(value: Any, kind: Kind) -> list[Any]:
    """What an object consists of: elements, what it holds on to, attributes."""
    parts = [*(elements_of(value) or ())]
    if is_array(value) and value.dtype.hasobject:
        parts += value.ravel().tolist()
    if kind.is_walked or kind.standing is Standing.RESOURCE:
        parts += (attributes_of(value) or {}).values()
        parts += present(members_of(value, kind.members))
    if isinstance(value, torch.jit.ScriptModule):  # whose tensors are in no attribute
        parts += (*value.parameters(recurse=False), *value.buffers(recurse=False))
    return parts


def progress_of(value: Any) -> list[Any] | None:
    """How far an iterator has come, as far as it tells without moving; ``None`` if a value is none, or never tells."""
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        return [] if frame is None else [frame.f_lasti, *frame.f_locals.values()]
    if not hasattr(type(value), "__next__") or _package(type(value)) not in {"builtins", "itertools"}:
        return None
    if isinstance(value, itertools.count):
        return [repr(value)]
    return [operator.length_hint(value, -1)] if hasattr(value, "__length_hint__") else _reduced(value)


def _reduced(iterator: Any) -> list[Any] | None:
    """What an iterator over iterators would be pickled as: its sources, and numbers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            groups = iterator.__reduce__()[1:]
    except TypeError:
        return None
    parts = [part for group in groups for part in (group if isinstance(group, tuple) else [group])]
    return [inner for part in parts for inner in progress_of(part) or [part]]


def glance(value: Any, kind: Kind) -> list[Any]:
    """Enough of an object to see whether it has changed."""
    seen = [*inside(value, kind), *(progress_of(value) or ())]
    if kind.standing is not Standing.ROLE:
        seen += [element for part in seen for element in _few(part)]
    return [part._version if isinstance(part, Tensor) and not part.is_inference() else part for part in seen]


def _few(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | set | collections.deque):
        yield len(value)
        if len(value) <= _FEW:
            yield from elements_of(value) or ()


def is_like(some: list[Any], others: list[Any]) -> bool:
    """Whether two glances show the same objects and equal numbers."""
    return len(some) == len(others) and all(
        one is other or (type(one) is type(other) and isinstance(one, int | float | str | bytes) and one == other)
        for one, other in zip(some, others, strict=True)
    )
