"""Samples, loaders, and streams."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


def blobs(n: int = 256, seed: int = 0) -> TensorDataset:
    """Eight features, three classes, learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 8, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(1))


def loader(n: int = 256, batch_size: int = 16, **kwargs) -> DataLoader:
    return DataLoader(blobs(n), batch_size, **kwargs)


def batches(number: int = 40) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of sixteen samples each."""
    x, y = blobs(16 * number).tensors
    return [*zip(x.split(16), y.split(16), strict=True)]


def unbatched(dataset: Dataset) -> DataLoader:
    """For data that come in batches already."""
    return DataLoader(dataset, batch_size=None)


class Stream(IterableDataset):
    """Goes through what it is given, of no known length; if ``once``, it cannot be rewound."""

    def __init__(self, items: Iterable[Any], once: bool = False):
        self.items = iter(items) if once else items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)
