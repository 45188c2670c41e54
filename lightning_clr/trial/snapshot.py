"""Remembers what training steps can change, and puts it back into the same objects.

Copies live in memory, hold only this process's shard of a tensor and need no communication. Objects are walked
through their attributes and containers: modules, optimizers, learning rate schedulers, gradient scalers, samplers and
the user's own classes. Everything else (trainers, loggers, files, threads, third-party objects) is kept by reference
and not looked into.
"""

import argparse
import collections
import functools
import os
import random
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler

_TENSOR_ATTRIBUTES = ("grad", "_backward_hooks", "_post_accumulate_grad_hooks")
_HELD = SimpleNamespace | argparse.Namespace | collections.UserDict | collections.UserList  # type: ignore[type-arg]
_LIBRARIES = {"torch", "lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics", "lightning_clr"}
_ENGINES = {"deepspeed"}  # looked into without copies of tensors: `remember_zero` names those that outlive a step
_CONSTANTS = {type(None), bool, int, float, str, bytes, torch.dtype, torch.device}
_CONTAINERS = {dict, collections.OrderedDict, list, set}
_LARGE = 10_000  # a longer container holds data: its elements are kept, not looked into


class Snapshot:
    """A context manager that undoes, on exit, what happened to the objects added to it and to the random generators.

    Args:
        device: Where copies of tensors are kept; by default beside the original.
        users: Objects whose packages count as the user's own code, also where they are installed.

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

    def __init__(self, device: torch.device | str | None = None, users: Iterable[object] = ()) -> None:
        self.device = device
        self._users_packages = {kind.__module__.partition(".")[0] for value in users for kind in type(value).__mro__}
        self._is_walked_class = functools.cache(self._looks_into)
        self._undo: list[Callable[[], object]] = [functools.partial(set_rng_state, rng_state())]
        self._seen: dict[tuple[int, bool], object] = {}  # holds the objects, so that ids stay theirs

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        failures: list[BaseException] = []
        with torch.no_grad():
            for undo in reversed(self._undo):
                try:
                    undo()
                except BaseException as failure:  # must not keep the others from running
                    failures.append(failure)
        if failures:  # an interrupt before all others
            raise next((failure for failure in failures if not isinstance(failure, Exception)), failures[0])

    def add(self, value: Any, data: bool = False) -> None:
        """Remember ``value`` and all that it reaches.

        Args:
            value: Any object. What is of no known kind is passed over.
            data: Whether this is part of a data set: its tensors and arrays are taken to be read only, and are not
                copied.
        """
        if type(value) in _CONTAINERS and not value:  # most of what a module has
            self._undo.append(value.clear)
            return
        data = data or isinstance(value, Dataset) or _is_of_engine(value)
        if (id(value), data) in self._seen:
            return
        self._seen[id(value), data] = value
        if isinstance(value, Tensor) or _is_array(value):
            if not data:
                self._remember_array(value)
            return
        undo = _generator_state(value) or _container_state(value)
        if undo is not None:
            self._undo.append(undo)
        if self._is_walked(value):
            self.add_attributes(value)
        for part in self._parts(value) or ():
            self.add(part, data)

    def add_attributes(self, owner: Any) -> None:
        """Remember which objects the attributes of ``owner`` are, without looking into them."""
        if isinstance(owner, LazyModuleMixin):  # becomes another class when it learns its shapes
            self._undo.append(functools.partial(setattr, owner, "__class__", type(owner)))
        if hasattr(owner, "__dict__"):
            self._undo.append(functools.partial(_put_back_items, vars(owner), dict(vars(owner))))
        for name, value in self._slots(owner).items():
            self._undo.append(functools.partial(object.__setattr__, owner, name, value))

    def _remember_array(self, value: Any) -> None:
        if not isinstance(value, Tensor):
            if value.flags.writeable:
                self._undo.append(functools.partial(_put_back_array, value, value.copy()))
            return
        if is_lazy(value):
            self._undo.append(functools.partial(_make_lazy_again, value, type(value), value.data))
            return
        if value.is_inference() or (value.requires_grad and not value.is_leaf):
            return  # cannot be written in place; whoever holds it is given the same object back
        copy = None if _is_under_parameters(value) else self._copy(local_shard(value))
        attributes = {name: getattr(value, name) for name in _TENSOR_ATTRIBUTES if hasattr(value, name)}
        self._undo.append(functools.partial(_put_back_tensor, value, copy, value.requires_grad, attributes))
        for attribute in attributes.values():
            self.add(attribute)

    def _copy(self, tensor: Tensor) -> Tensor:
        return tensor.clone() if self.device is None else tensor.to(self.device, copy=True)

    def replace(self, owner: Any, **attributes: Any) -> None:
        """Give an object other attributes until the end."""
        for name, value in attributes.items():
            self._undo.append(functools.partial(setattr, owner, name, getattr(owner, name)))
            setattr(owner, name, value)

    def can_rewind(self, source: Any) -> bool:
        """Whether a data source is put back when it is added: nothing in it but data, functions, random generators.

        Example:
            >>> Snapshot().can_rewind([1, 2]), Snapshot().can_rewind(iter([1, 2]))
            (True, False)
        """
        pending, seen = [source], set[int]()
        while pending:
            value = pending.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if hasattr(value, "__next__"):
                return False
            parts = self._parts(value)
            if parts is None and not _is_inert(value):
                return False
            pending.extend(parts or ())
        return True

    def _parts(self, value: Any) -> tuple[Any, ...] | None:
        """What a value consists of, but for constants, as far as we look into it; ``None`` if we do not."""
        parts: list[Any] = []
        if isinstance(value, dict):
            parts += value.values()
        elif isinstance(value, list | tuple | set | frozenset | collections.deque):
            parts += value
        elif isinstance(value, functools.partial | MethodType | FunctionType | CellType):
            parts += _captured(value)
        elif not self._is_walked(value):
            return None
        if self._is_walked(value):
            parts += (*getattr(value, "__dict__", {}).values(), *self._slots(value).values())
        return tuple(part for part in parts if type(part) not in _CONSTANTS) if len(parts) <= _LARGE else ()

    def _slots(self, value: Any) -> dict[str, Any]:
        """The attributes of an object that are not in its ``__dict__``."""
        if not self._is_walked(value):
            return {}
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if name != "__dict__"]
        return {name: getattr(value, name) for name in names if name != "__weakref__" and hasattr(value, name)}

    def _is_walked(self, value: Any) -> bool:
        """Whether we look into the attributes of an object."""
        return isinstance(value, Dataset) or self._is_walked_class(type(value))  # type: ignore[arg-type]

    def _looks_into(self, kind: type) -> bool:
        if issubclass(kind, nn.Module | Optimizer | LRScheduler | Sampler | torch.amp.GradScaler | _HELD):
            return True
        if issubclass(kind, type | BaseException | ModuleType):
            return False
        return self._is_users_code(kind.__module__)

    def _is_users_code(self, module: str) -> bool:
        """Whether a module belongs to the user rather than to Python or an installed package."""
        package = module.partition(".")[0]
        if package in {*sys.stdlib_module_names, *_LIBRARIES} - {"__main__"}:
            return False
        if module == "__main__" or package in self._users_packages | _ENGINES:
            return True
        file = getattr(sys.modules.get(module), "__file__", None)
        paths = sysconfig.get_paths()
        installed = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
        return file is not None and not file.startswith(tuple(installed))


def _is_under_parameters(value: Any) -> bool:
    """Whether this is a flat parameter of FSDP whose memory is that of the module's own, which are remembered."""
    return getattr(value, "_is_flat_param", False) and value._params is not None


def _is_of_engine(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] in _ENGINES and not isinstance(value, nn.Module | Optimizer)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; the tensor itself unless it is a DTensor."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def _captured(function: Any) -> tuple[Any, ...]:
    """What a function holds on to."""
    if isinstance(function, functools.partial):
        return function.func, *function.args, *function.keywords.values()
    if isinstance(function, MethodType):
        return (function.__self__,)
    if isinstance(function, CellType):
        return (function.cell_contents,) if _is_filled(function) else ()
    return function.__closure__ or ()


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_inert(value: Any) -> bool:
    """Whether using a value cannot move it on: a number, a string, an array, a random generator, a function."""
    constants = (str, bytes, int, float, complex, range, os.PathLike, torch.dtype, torch.device, Tensor)
    inert = value is None or isinstance(value, constants) or _is_array(value) or callable(value)
    return inert or _generator_state(value) is not None


def rng_state() -> dict[str, Any]:
    """State of the global random generators of Python, torch and, where they are in use, NumPy and CUDA."""
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put the global random generators into a state taken by :func:`rng_state`."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(state["numpy"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])


def same_rng_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states taken by :func:`rng_state` would lead to the same random numbers."""
    return bool(_listed(list(one.values())) == _listed(list(other.values())))


def _listed(value: Any) -> Any:
    """Tensors and arrays compare element by element, lists as a whole."""
    if isinstance(value, list | tuple):
        return [_listed(part) for part in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _numpy() -> ModuleType | None:
    return sys.modules.get("numpy")


def _is_array(value: Any) -> bool:
    numpy = _numpy()
    return numpy is not None and isinstance(value, numpy.ndarray)


def _generator_state(value: Any) -> Callable[[], object] | None:
    """For a random generator, what puts it back into its present state."""
    numpy = _numpy()
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return functools.partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    return None


def _container_state(value: Any) -> Callable[[], object] | None:
    """For a mutable container, what puts its present elements back."""
    if isinstance(value, dict):
        return functools.partial(_put_back_items, value, dict(value))
    if isinstance(value, list | collections.deque):
        return functools.partial(_put_back_sequence, value, list(value))
    if isinstance(value, set):
        return functools.partial(_put_back_items, value, set(value))
    if isinstance(value, CellType) and _is_filled(value):
        return functools.partial(setattr, value, "cell_contents", value.cell_contents)
    return None


def _put_back_items(container: Any, items: Any) -> None:
    container.clear()
    container.update(items)


def _put_back_sequence(sequence: Any, items: list[Any]) -> None:
    sequence.clear()
    sequence.extend(items)


def _put_back_array(array: Any, copy: Any) -> None:
    array[...] = copy


def _make_lazy_again(parameter: Any, kind: type, data: Tensor) -> None:
    if type(parameter) is not kind:  # has learned its shape
        parameter.data, parameter.grad = data, None
        parameter.__class__ = kind


def _put_back_tensor(tensor: Tensor, copy: Tensor | None, requires_grad: bool, attributes: dict[str, Any]) -> None:
    if not tensor.is_leaf:  # written in place under autograd
        tensor.detach_()
    tensor.requires_grad_(requires_grad)
    for name, value in attributes.items():
        if getattr(tensor, name) is not value:
            setattr(tensor, name, value)
    if copy is None:
        return
    shard = local_shard(tensor)
    if shard.shape == copy.shape and not _is_expanded(shard):
        shard.copy_(copy)
    else:  # resized in the meantime, or expanded from fewer elements
        tensor.data = copy.to(tensor.device)


def _is_expanded(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and any(
        size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
