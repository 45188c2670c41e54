"""What is asked of a trainer or a module by public names, once; of either Lightning package.

`pytorch_lightning` and `lightning.pytorch` have distinct classes. Everything of Lightning's that we need is taken from
the package the user's trainer comes from. Importing a second one costs time: what is imported before us, or before a
callback is made, is in use; if nothing is, whatever is installed.
"""

import importlib
import math
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

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


if TYPE_CHECKING:  # the classes of one package stand for those of both
    from pytorch_lightning import Callback as Callback
    from pytorch_lightning import LightningModule as LightningModule
    from pytorch_lightning import Trainer as Trainer
else:
    Trainer = LightningModule = Any

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


def package_of(trainer: Trainer) -> str:
    """The package a trainer comes from.

    Raises:
        TypeError: If it comes from neither.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> package_of(Trainer(logger=False, enable_checkpointing=False, barebones=True))
        'pytorch_lightning'
    """
    package = package_of_class(type(trainer))
    if package is None or not any(kind.__name__ == "Trainer" for kind in type(trainer).__mro__):
        raise TypeError(f"`trainer` must be a Lightning Trainer, got {type(trainer).__name__}.")
    return package


def lightning_name(trainer: Trainer, module: str, name: str) -> Any:
    """``name`` from ``module`` of the trainer's own package, for example ``("callbacks", "ProgressBar")``."""
    return getattr(importlib.import_module(f"{package_of(trainer)}.{module}"), name)


def callbacks_of_kind(trainer: Trainer, name: str) -> list[Any]:
    """The trainer's callbacks of the class ``name`` of its own package."""
    kind = lightning_name(trainer, "callbacks", name)
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def is_deepspeed(trainer: Trainer) -> bool:
    """Whether a trainer trains with DeepSpeed."""
    return any(kind.__name__ == "DeepSpeedStrategy" for kind in type(trainer.strategy).__mro__)


def torch_optimizers(trainer: Trainer) -> list[Optimizer]:
    """The optimizers that learning rate schedulers drive: under DeepSpeed not the trainer's, but the one within."""
    if not is_deepspeed(trainer):
        return list(trainer.optimizers)
    return [getattr(optimizer, "optimizer", optimizer) for optimizer in trainer.optimizers]


def lr_schedulers(trainer: Trainer) -> list[Any]:
    """The learning rate schedulers of a training, ours, torch's or any other."""
    return [config.scheduler for config in trainer.lr_scheduler_configs]


def accumulated_batches(trainer: Trainer, epochs: Sequence[int] = (0,)) -> list[int]:
    """How many batches an optimizer step accumulates, in each of ``epochs``."""
    for callback in callbacks_of_kind(trainer, "GradientAccumulationScheduler"):
        return [int(callback.get_accumulate_grad_batches(epoch)) for epoch in epochs]
    return [int(trainer.accumulate_grad_batches)] * len(epochs)


def length_settings(trainer: Trainer) -> tuple[Any, ...]:
    """What the length of training follows from, and what may change while it goes on."""
    return trainer.num_training_batches, trainer.max_epochs, trainer.max_steps, trainer.accumulate_grad_batches


def optimizer_steps(trainer: Trainer, batches: int = 0, resumes: bool | None = None) -> int:
    """How many optimizer steps are ahead, as the trainer is configured: all of a training that is resumed.

    Args:
        trainer: The trainer, in the epoch that it is at: a second ``fit`` goes on where the first has ended.
        batches: How many batches of this epoch have been trained on.
        resumes: Whether a checkpoint will say where training is; by default if one is to be loaded.

    Raises:
        ValueError: If training has no known end.
    """
    _ = trainer.estimated_stepping_batches  # loads the data
    resumes = bool(trainer.ckpt_path) if resumes is None else resumes
    first, step = (0, 0) if resumes else (trainer.current_epoch, trainer.global_step)
    ahead = _steps_in_epochs(trainer, first, batches)
    if trainer.max_steps >= 0:
        ahead = min(ahead, trainer.max_steps - step)
    if math.isfinite(ahead):
        return max(1 if batches == 0 else 0, int(ahead))
    raise ValueError(
        "This schedule needs to know how long training lasts, but the Trainer has no end that is known beforehand"
        f" (max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}, training batches per epoch:"
        f" {trainer.num_training_batches}). Set `max_steps`, or for data without a length `max_epochs` together with"
        " `limit_train_batches`, or call `with_schedule(optimizer, total_steps=…)`, or use `Cyclic(step_size=…)`,"
        " which needs no total."
    )


def known_optimizer_steps(trainer: Trainer) -> int | None:
    """The same; ``None`` if training has no known end."""
    try:
        return optimizer_steps(trainer)
    except ValueError:
        return None


def _steps_in_epochs(trainer: Trainer, first: int, batches: int) -> float:
    """Optimizer steps from an epoch to the last, without those of its first ``batches``; infinite without an end."""
    per_epoch, last = trainer.num_training_batches, trainer.max_epochs
    if last in (None, -1) or not math.isfinite(per_epoch):
        return math.inf
    epochs = range(first, max(last, first + (first == 0)))
    accumulated = accumulated_batches(trainer, epochs)
    steps = [math.ceil(per_epoch / count) for count in accumulated]
    return sum(steps) - steps[0] + math.ceil(max(per_epoch - batches, 0) / accumulated[0]) if steps else 0
