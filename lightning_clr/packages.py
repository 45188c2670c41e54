"""The two Lightning packages, `pytorch_lightning` and `lightning.pytorch`, whose classes are distinct.

Everything of Lightning's that we need is taken from the package the user's trainer comes from.
"""

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import pytorch_lightning

if TYPE_CHECKING:
    Callback = pytorch_lightning.Callback
else:
    _bases = [pytorch_lightning.Callback]
    with contextlib.suppress(Exception):  # a missing or broken package that the user does not use must not break us
        _bases.append(importlib.import_module("lightning.pytorch").Callback)

    class Callback(*_bases):
        """A callback for the Trainer of either package."""


def package_of(trainer: Any) -> str:
    """The package a trainer comes from.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> package_of(Trainer(logger=False, enable_checkpointing=False, barebones=True))
        'pytorch_lightning'
    """
    for cls in type(trainer).__mro__:
        for package in ("pytorch_lightning", "lightning.pytorch"):
            if cls.__module__.startswith(package + "."):
                return package
    raise TypeError(f"`trainer` must be a Lightning Trainer, got {type(trainer).__name__}.")


def callbacks_of_kind(trainer: Any, name: str) -> list[Any]:
    """The trainer's callbacks of the class ``name`` of its own package."""
    kind = lightning_name(trainer, "callbacks", name)
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


def lightning_name(trainer: Any, module: str, name: str) -> Any:
    """``name`` from ``module`` of the trainer's own package, for example ``("callbacks", "ProgressBar")``."""
    return getattr(importlib.import_module(f"{package_of(trainer)}.{module}"), name)
