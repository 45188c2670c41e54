"""What ``configure_optimizers`` returns to have a schedule stepping per optimizer step, with or without the mixin."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require
from lightning_clr.lightning import LightningModule, optimizer_steps
from lightning_clr.scheduler import ScheduleLR
from lightning_clr.schedules import Schedule


def scheduled(
    pl_module: Any,
    optimizer: Optimizer | Sequence[Optimizer],
    schedule: Schedule,
    lr_bounds: LRBounds | None = None,
    total_steps: int | None = None,
) -> Any:
    """What ``configure_optimizers`` of any module should return, see :meth:`~lightning_clr.CLRMixin.with_schedule`."""
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer or ())
    require("optimizer", optimizer, "be an Optimizer, or a list of them", lambda _: optimizers)
    if total_steps is None and schedule.needs_total_steps:
        total_steps = optimizer_steps(pl_module.trainer)
    reference_lr = max(float(group["lr"]) for one in optimizers for group in one.param_groups)
    configs = [
        {
            "optimizer": one,
            "lr_scheduler": {
                "scheduler": ScheduleLR(one, schedule, total_steps, lr_bounds, reference_lr=reference_lr),
                "interval": "step",
            },
        }
        for one in optimizers
    ]
    return configs[0] if isinstance(optimizer, Optimizer) else configs


def attach_schedule(pl_module: LightningModule, schedule: Schedule, lr_bounds: LRBounds | None = None) -> None:
    """Give the schedule to a module without the mixin, whose ``configure_optimizers`` returns optimizers alone.

    Args:
        pl_module: A LightningModule of either package. Its class stays as it is.
        schedule: The learning rate policy.
        lr_bounds: Lower and upper learning rate, as in :class:`~lightning_clr.CLRMixin`.

    Raises:
        ValueError: When training is set up, if ``configure_optimizers`` returns anything but optimizers.
    """
    module: Any = pl_module  # whose methods are replaced
    plain = module.configure_optimizers.__func__  # with the module beside it, since a bound method cannot be pickled
    module.configure_optimizers = partial(_configure_scheduled, module, plain, schedule, lr_bounds)
    module.lr_scheduler_step = partial(_lr_scheduler_step, module, module.lr_scheduler_step.__func__)


def _configure_scheduled(pl_module: Any, plain: Any, schedule: Schedule, lr_bounds: LRBounds | None) -> Any:
    optimizer = plain(pl_module)
    if isinstance(optimizer, dict) and "lr_scheduler" not in optimizer:
        optimizer = optimizer["optimizer"]
    if not isinstance(optimizer, Optimizer) and not _are_optimizers(optimizer):
        raise ValueError(
            f"{type(schedule).__name__} can be attached where `configure_optimizers` returns an optimizer or a list of"
            f" optimizers, but that of {type(pl_module).__name__} returns {type(optimizer).__name__} with more in it."
            " Let it return optimizers without schedulers, or do not ask for a schedule."
        )
    return scheduled(pl_module, optimizer, schedule, lr_bounds)


def _are_optimizers(optimizers: Any) -> bool:
    return isinstance(optimizers, list | tuple) and all(isinstance(one, Optimizer) for one in optimizers)


def _lr_scheduler_step(pl_module: Any, plain: Any, scheduler: Any, metric: Any) -> None:
    if is_step_due(scheduler):
        plain(pl_module, scheduler, metric)


def is_step_due(scheduler: Any) -> bool:
    """Whether a scheduler should advance: ours not after a step that mixed precision has skipped."""
    return not isinstance(scheduler, ScheduleLR) or scheduler.optimizer_stepped
