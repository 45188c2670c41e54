"""The two Lightning packages, `pytorch_lightning` and `lightning.pytorch`, whose classes are distinct.

Everything of Lightning's that we need is taken from the package the user's trainer comes from. Importing a second one
costs time: what is imported before us, or before a callback is made, is in use; if nothing is, whatever is installed.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def packages_in_use() -> list[ModuleType]:
    """What has been imported by now of the two; if nothing has, what can be.

    Raises:
        ImportError: If neither can be imported.
    """
    found, error = [], None
    for name in [name for name in PACKAGES if name in sys.modules] or PACKAGES:
        try:
            found.append(importlib.import_module(name))
        except Exception as problem:  # a missing or broken package that the user does not use must not break us
            error = error or problem
    if not found:
        raise ImportError("lightning_clr needs Lightning: pip install pytorch-lightning") from error
    return found


if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
else:

    class Callback(*(package.Callback for package in packages_in_use())):
        """A callback for the Trainer of each package in use."""

        def __new__(cls, *args, **kwargs):
            """Become a callback also of a package that was imported after us."""
            join_packages_in_use()
            return super().__new__(cls)


def join_packages_in_use() -> None:
    """Make :class:`Callback` a callback of each package that is imported by now."""
    late = [package for package in packages_in_use() if not issubclass(Callback, package.Callback)]
    if late:
        Callback.__bases__ += tuple(package.Callback for package in late)


def package_of_class(cls: type) -> str | None:
    """The package of the Lightning class that ``cls`` derives from, if any.

    Example:
        >>> from pytorch_lightning import LightningModule
        >>> package_of_class(LightningModule), package_of_class(str)
        ('pytorch_lightning', None)
    """
    for base in cls.__mro__:
        for package in PACKAGES:
            if base.__module__.startswith(package + "."):
                return package
    return None


def package_of(trainer: Any) -> str:
    """The package a trainer comes from.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> package_of(Trainer(logger=False, enable_checkpointing=False, barebones=True))
        'pytorch_lightning'
    """
    package = package_of_class(type(trainer))
    if package is None:
        raise TypeError(f"`trainer` must be a Lightning Trainer, got {type(trainer).__name__}.")
    return package


def callbacks_of_kind(trainer: Any, name: str) -> list[Any]:
    """The trainer's callbacks of the class ``name`` of its own package."""
    kind = lightning_name(trainer, "callbacks", name)
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]


def lightning_name(trainer: Any, module: str, name: str) -> Any:
    """``name`` from ``module`` of the trainer's own package, for example ``("callbacks", "ProgressBar")``."""
    return getattr(importlib.import_module(f"{package_of(trainer)}.{module}"), name)
