"""Remembers what training steps can change, and puts it back into the same objects.

Copies live in memory, hold only this process's shard of a tensor and need no communication. Objects are walked
through their attributes and containers: modules, optimizers, learning rate schedulers, gradient scalers, samplers and
the user's own classes. Everything else (trainers, loggers, files, threads, third-party objects) is kept by reference
and not looked into.
"""

import collections
import functools
import os
import random
import site
import sys
import sysconfig
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset, Sampler

_LARGE = 10_000  # a longer container holds data: its elements are kept, not looked into


class Snapshot:
    """A context manager that undoes, on exit, what happened to the objects added to it and to the random generators.

    Args:
        device: Where copies of tensors are kept; by default beside the original.

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

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = device
        self._undo: list[Callable[[], object]] = []
        self._seen: dict[int, object] = {}  # holds the objects, so that ids stay theirs
        self._rng = rng_state()

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with torch.no_grad():
            for undo in self._undo:
                undo()
        set_rng_state(self._rng)

    @torch.no_grad()
    def add(self, value: Any, data: bool = False) -> None:
        """Remember ``value`` and all that it reaches.

        Args:
            value: Any object. What is of no known kind is passed over.
            data: Whether this is a data set: its tensors and arrays are taken to be read only, and are not copied.
        """
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        data = data or isinstance(value, Dataset)
        remember = self._remember_array if isinstance(value, Tensor) or _is_array(value) else self._remember
        if not (data and remember is self._remember_array):
            remember(value, data)

    def add_attributes(self, owner: Any) -> None:
        """Remember which objects the attributes of ``owner`` are, without looking into them."""
        self._undo.append(functools.partial(_put_back_items, vars(owner), dict(vars(owner))))

    def _remember(self, value: Any, data: bool) -> None:
        undo = _generator_state(value) or _container_state(value)
        if undo is not None:
            self._undo.append(undo)
        elif _is_walked(value):
            self.add_attributes(value)
        for part in _parts(value) or ():
            self.add(part, data)

    def _remember_array(self, value: Any, data: bool) -> None:
        if not isinstance(value, Tensor):
            self._undo.append(functools.partial(_put_back_array, value, value.copy()))
            return
        if is_lazy(value):
            raise ValueError(
                "The module has lazy parameters that are not initialized: they cannot be restored. Run one dummy"
                " forward pass before training, as Lightning asks for too."
            )
        if value.is_inference() or (value.requires_grad and not value.is_leaf):
            return  # cannot be written in place; whoever holds it is given the same object back
        shard = local_shard(value)
        copy = shard.clone() if self.device is None else shard.to(self.device, copy=True)
        self._undo.append(functools.partial(_put_back_tensor, value, copy, value.requires_grad, value.grad))
        if value.grad is not None:
            self.add(value.grad)


def local_shard(tensor: Tensor) -> Tensor:
    """This process's part of a tensor; the tensor itself unless it is a DTensor."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_restorable(source: Any) -> bool:
    """Whether a :class:`Snapshot` can rewind a data source: nothing in it but data, functions and random generators.

    Example:
        >>> is_restorable([1, 2]), is_restorable(iter([1, 2]))
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
        parts = _parts(value)
        if parts is None and not _is_inert(value):
            return False
        pending.extend(parts or ())
    return True


def _parts(value: Any) -> tuple[Any, ...] | None:
    """What a value consists of, as far as a snapshot looks into it; ``None`` if it does not."""
    if isinstance(value, dict):
        parts = tuple(value.values())
    elif isinstance(value, list | tuple | set | frozenset | collections.deque):
        parts = tuple(value)
    elif _is_walked(value):
        parts = tuple(vars(value).values())
    else:
        return None
    return parts if len(parts) <= _LARGE else ()


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


def _is_walked(value: Any) -> bool:
    """Whether a snapshot looks into the attributes of an object."""
    return isinstance(value, Dataset) or _is_walked_class(type(value))  # type: ignore[arg-type]


@functools.cache
def _is_walked_class(kind: type) -> bool:
    if issubclass(kind, nn.Module | Optimizer | LRScheduler | Sampler | torch.amp.GradScaler):
        return True
    if not kind.__dictoffset__ or issubclass(kind, type | BaseException | ModuleType):
        return False
    return _is_users_code(kind.__module__)


def _is_users_code(module: str) -> bool:
    """Whether a module belongs to the user rather than to Python or an installed package."""
    if module == "__main__":
        return True
    if module.partition(".")[0] in {*sys.stdlib_module_names, "torch", "lightning_clr"}:
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    paths = sysconfig.get_paths()
    installed = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    return file is not None and not file.startswith(tuple(installed))


def _container_state(value: Any) -> Callable[[], object] | None:
    """For a mutable container, what puts its present elements back."""
    if isinstance(value, dict):
        return functools.partial(_put_back_items, value, dict(value))
    if isinstance(value, list | collections.deque):
        return functools.partial(_put_back_sequence, value, list(value))
    if isinstance(value, set):
        return functools.partial(_put_back_items, value, set(value))
    return None


def _put_back_items(container: Any, items: Any) -> None:
    container.clear()
    container.update(items)


def _put_back_sequence(sequence: Any, items: list[Any]) -> None:
    sequence.clear()
    sequence.extend(items)


def _put_back_array(array: Any, copy: Any) -> None:
    array[...] = copy


def _put_back_tensor(tensor: Tensor, copy: Tensor, requires_grad: bool, grad: Tensor | None) -> None:
    tensor.requires_grad_(requires_grad)
    tensor.grad = grad
    shard = local_shard(tensor)
    if shard.shape == copy.shape and not _is_expanded(shard):
        shard.copy_(copy)
    else:  # resized in the meantime, or expanded from fewer elements
        tensor.data = copy.to(tensor.device)


def _is_expanded(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and any(
        size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
