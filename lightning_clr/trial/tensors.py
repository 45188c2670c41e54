"""Copies of tensors, and how their content gets back.

A tensor that requires grad is about to change: it is copied at once. A large or frozen one may never change: it is
cloned by torch's copy-on-write, which shares the memory until somebody writes, by whatever name (``.data`` too).
"""

import functools
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_LARGE = 2**20  # bytes
_COPIES_ON_WRITE = all(hasattr(torch._C, name) for name in ("_is_cow_tensor", "_data_address"))
_PLAIN = (Tensor, nn.Parameter, getattr(nn, "Buffer", nn.Parameter))


def local_shard(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory; all of it unless it is a DTensor."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def is_rarely_written(tensor: Tensor) -> bool:
    """Whether a copy of a tensor may well turn out to be needless."""
    size = tensor.numel() * tensor.element_size()
    return not tensor.requires_grad and (isinstance(tensor, nn.Parameter) or size >= _LARGE)


def copied_on_write(tensor: Tensor) -> Tensor | None:
    """A clone that takes no memory until one of both is written to; ``None`` where torch cannot tell writes."""
    if not _COPIES_ON_WRITE or type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
        return None
    try:
        return torch._lazy_clone(tensor)
    except RuntimeError:  # memory that others may write to: of a file, of NumPy, of another process
        return None


def is_untouched(tensor: Tensor, copy: Tensor) -> bool:
    """Whether a tensor and its clone still share their memory."""
    torch_c: Any = torch._C
    if not _COPIES_ON_WRITE or copy.layout is not torch.strided or not torch_c._is_cow_tensor(copy):
        return False
    return bool(torch_c._is_cow_tensor(tensor) and torch_c._data_address(tensor) == torch_c._data_address(copy))


def is_as_copied(tensor: Tensor, held: Tensor, copy: Tensor) -> bool:
    """Whether a tensor has the memory and the content it had when it was copied."""
    shard = local_shard(tensor)
    if not _is_same_place(shard, held):
        return False
    return is_untouched(shard, copy) or (shard.device == copy.device and torch.equal(shard, copy))


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor has all the memory that it names; FSDP takes it away from tensors that it does not need."""
    if type(tensor) is not Tensor or tensor.layout is not torch.strided or tensor.is_meta or not tensor.numel():
        return True
    last = tensor.storage_offset() + sum(
        (size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return tensor.untyped_storage().nbytes() >= (last + 1) * tensor.element_size()


def put_back_tensor(
    tensor: Tensor, copy: Tensor | None, requires_grad: bool, attributes: dict[str, Any], held: Tensor, is_leaf: bool
) -> None:
    """Give a tensor its memory, content and attributes back.

    Args:
        tensor: The tensor.
        copy: Of its local shard, or ``None`` to leave memory and content alone.
        requires_grad: As it was.
        attributes: As they were.
        held: Another name for its memory.
        is_leaf: As it was; what autograd has recorded since is forgotten, not what it had recorded before.
    """
    with torch.inference_mode() if tensor.is_inference() else nullcontext():
        if is_leaf and not tensor.is_leaf:  # written in place under autograd
            tensor.detach_()
        if is_leaf and tensor.requires_grad != requires_grad:
            tensor.requires_grad_(requires_grad)
        for name, value in attributes.items():
            if getattr(tensor, name) is not value:
                setattr(tensor, name, value)
        if copy is not None:
            _put_back_content(tensor, copy, held)


def put_back_lazy(tensor: Tensor, kind: type, nothing: Tensor) -> None:
    """Make a parameter lazy again."""
    if type(tensor) is not kind:  # it has learned its shape
        tensor.data, tensor.grad = nothing, None
        tensor.__class__ = kind


def _put_back_content(tensor: Tensor, copy: Tensor, held: Tensor) -> None:
    shard = local_shard(tensor)
    if shard.layout is not torch.strided and not hasattr(tensor, "to_local"):
        held = tensor  # of which other names do not see that it has other elements
    elif _is_same_place(shard, held) or hasattr(tensor, "to_local"):
        held = shard
    elif shard.device == held.device:
        tensor.data = held
    else:  # moved to another device meanwhile, where it stays
        tensor.data = copy.to(shard.device, copy=True)
        return
    if not is_untouched(held, copy):
        _write(held, copy)


def _write(tensor: Tensor, copy: Tensor) -> None:
    for dimension in range(tensor.dim() if tensor.layout is torch.strided else 0):
        if tensor.size(dimension) > 1 and tensor.stride(dimension) == 0:  # expanded from one element
            tensor, copy = tensor.narrow(dimension, 0, 1), copy.narrow(dimension, 0, 1)
    tensor.copy_(copy)


def _is_same_place(one: Tensor, other: Tensor) -> bool:
    if one.layout is not torch.strided or other.layout is not torch.strided:
        return one.layout == other.layout
    return _place(one) == _place(other)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    try:
        memory = tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.stride()
    except (RuntimeError, NotImplementedError):  # a subclass that only wraps others
        memory = (0, 0, ())
    return tensor.shape, tensor.dtype, memory


def is_array(value: Any) -> bool:
    """Whether a value is an array of NumPy, which may not be installed."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def bytes_in_memory(value: Any) -> int | None:
    """Of a tensor or an array; ``None`` if it lies in a file, or is not dense."""
    if isinstance(value, Tensor):
        return None if value.layout is not torch.strided or is_lazy(value) else value.nbytes
    base = value
    while is_array(base):
        if isinstance(base, sys.modules["numpy"].memmap):
            return None
        base = base.base
    return int(value.nbytes)


def array_state(array: Any) -> Callable[[], object] | None:
    """What puts the present numbers of an array back; ``None`` if nobody can write to it."""
    if not array.flags.writeable:
        return None
    bare = array.view(sys.modules["numpy"].ndarray)  # past what subclasses make of reading and writing
    return functools.partial(put_back_array, array, bare.copy("K"))


def put_back_array(array: Any, copy: Any) -> None:
    """Give an array its shape and numbers back."""
    if array.shape != copy.shape:
        array.resize(copy.shape, refcheck=False)
    if not array.flags.writeable:
        array.flags.writeable = True
    array.view(sys.modules["numpy"].ndarray)[...] = copy
