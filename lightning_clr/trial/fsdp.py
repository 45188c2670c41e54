"""Modules in shards, whose layers FSDP gathers for a while."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def is_in_shards(module: nn.Module | None) -> bool:
    """Whether FSDP, the first or the second, has any layer of a module."""
    layers = () if module is None else module.modules()
    return any(_is_layer(layer, "FSDPModule", "FullyShardedDataParallel") for layer in layers)


@contextmanager
def in_shards(module: nn.Module) -> Iterator[None]:
    """Every layer of FSDP 2 in shards, as a training step leaves it, at the start and at the end of the ``with`` block.

    After a forward pass alone, such as one of the sanity check, the outermost layer stays gathered. The next backward
    pass takes the memory of those parameters away, and to write to them then is a segmentation fault.
    """
    _shard(module)
    try:
        yield
    finally:
        _shard(module)


def _shard(module: nn.Module) -> None:
    for layer in module.modules():
        if _is_layer(layer, "FSDPModule"):
            sharded: Any = layer
            sharded.reshard()


def _is_layer(layer: nn.Module, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(layer).__mro__)
