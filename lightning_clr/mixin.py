"""Per-step schedules for a LightningModule in one line."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require
from lightning_clr.packages import callbacks_of_kind
from lightning_clr.scheduler import ScheduleLR
from lightning_clr.schedules import OneCycle, Schedule


class CLRMixin:
    """Mixin for a LightningModule of either Lightning package, to be named first among the bases.

    Args:
        schedule: The learning rate policy. Default: :class:`OneCycle`.
        lr_bounds: Lower and upper learning rate. By default the optimizer's learning rate is ``max_lr`` and ``base_lr``
            follows from the schedule's ``div_factor``. A range test replaces them.

    Example:
        >>> import torch
        >>> from pytorch_lightning import LightningModule
        >>> class Net(CLRMixin, LightningModule):
        ...     def __init__(self, schedule: Schedule | None = None):
        ...         super().__init__(schedule=schedule)
        ...         self.layer = torch.nn.Linear(2, 2)
        ...
        ...     def configure_optimizers(self):
        ...         return self.with_schedule(torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9))
        >>> Net().schedule.pct_start
        0.3
    """

    schedule: Schedule = OneCycle()
    lr_bounds: LRBounds | None = None
    _planned_batches: float | None = None

    def __init__(
        self, *args: Any, schedule: Schedule | None = None, lr_bounds: LRBounds | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if schedule is not None:
            rule = "be a Schedule such as OneCycle()"
            require("schedule", schedule, rule, lambda value: isinstance(value, Schedule), error=TypeError)
        if lr_bounds is not None:
            rule = "be LRBounds(base_lr, max_lr)"
            require("lr_bounds", lr_bounds, rule, lambda value: isinstance(value, LRBounds), error=TypeError)
        self.schedule = OneCycle() if schedule is None else schedule
        self.lr_bounds = lr_bounds

    def with_schedule(self, optimizer: Optimizer | Sequence[Optimizer], total_steps: int | None = None) -> Any:
        """What ``configure_optimizers`` should return: the optimizer(s), each with the schedule stepping per step.

        Args:
            optimizer: One optimizer, or several (with manual optimization, where your code steps
                ``self.lr_schedulers()``).
            total_steps: Length of training in optimizer steps. By default it follows from the Trainer: epochs,
                ``max_steps``, limits, accumulation, devices and nodes. Pass it with manual optimization if you do not
                step once per batch, or if ``max_steps`` ends training, which counts the steps of all optimizers.

        Returns:
            Lightning's dictionary of optimizer and scheduler with ``interval="step"``, or a list of these.

        Raises:
            ValueError: If the schedule needs to know how long training lasts and the Trainer does not.
        """
        if total_steps is None and self.schedule.needs_total_steps:
            self._planned_batches = self.trainer.num_training_batches  # type: ignore[attr-defined]
        return scheduled(self, optimizer, self.schedule, self.lr_bounds, total_steps)

    def on_fit_start(self) -> None:
        """Start from the schedule's learning rate, and plan anew if a ``BatchSizeFinder`` has changed the length."""
        super().on_fit_start()  # type: ignore[misc]
        trainer = self.trainer  # type: ignore[attr-defined]
        for scheduler in [config.scheduler for config in trainer.lr_scheduler_configs]:
            if isinstance(scheduler, ScheduleLR):
                if self._planned_batches not in (None, trainer.num_training_batches):
                    scheduler.total_steps = optimizer_steps(trainer)
                scheduler.apply()
        self._planned_batches = None

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Do not advance on a step that mixed precision has skipped."""
        if advances(scheduler):
            super().lr_scheduler_step(scheduler, metric)  # type: ignore[misc]


def scheduled(
    pl_module: Any,
    optimizer: Optimizer | Sequence[Optimizer],
    schedule: Schedule,
    lr_bounds: LRBounds | None = None,
    total_steps: int | None = None,
) -> Any:
    """What :meth:`CLRMixin.with_schedule` returns, for any module."""
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


def attach_schedule(pl_module: Any, schedule: Schedule, lr_bounds: LRBounds | None = None) -> None:
    """Give the schedule to a module without the mixin, whose ``configure_optimizers`` returns optimizers alone.

    Args:
        pl_module: A LightningModule of either package. Its class stays as it is.
        schedule: The learning rate policy.
        lr_bounds: Lower and upper learning rate, as in :class:`CLRMixin`.

    Raises:
        ValueError: When training is set up, if ``configure_optimizers`` returns anything but optimizers.
    """
    plain = pl_module.configure_optimizers.__func__  # with the module beside it, since a bound method cannot be pickled
    pl_module.configure_optimizers = partial(_configure_scheduled, pl_module, plain, schedule, lr_bounds)
    pl_module.lr_scheduler_step = partial(_step_if_due, pl_module, pl_module.lr_scheduler_step.__func__)


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


def _step_if_due(pl_module: Any, plain: Any, scheduler: Any, metric: Any) -> None:
    if advances(scheduler):
        plain(pl_module, scheduler, metric)


def advances(scheduler: Any) -> bool:
    """Whether a scheduler's step is due: ours is not on a step that mixed precision has skipped."""
    return not isinstance(scheduler, ScheduleLR) or scheduler.optimizer_stepped


def optimizer_steps(trainer: Any) -> int:
    """Length of the whole training in optimizer steps, as the trainer is configured.

    Raises:
        ValueError: If training has no known end.
    """
    estimate = trainer.estimated_stepping_batches
    batches, epochs = trainer.num_training_batches, trainer.max_epochs or 0
    for callback in callbacks_of_kind(trainer, "GradientAccumulationScheduler"):
        if epochs > 0 and math.isfinite(batches):
            accumulated = map(callback.get_accumulate_grad_batches, range(epochs))
            estimate = sum(math.ceil(batches / count) for count in accumulated)
            estimate = min(estimate, trainer.max_steps) if trainer.max_steps >= 0 else estimate
    if math.isfinite(estimate) and estimate >= 0:
        return max(1, int(estimate))
    raise ValueError(
        "This schedule needs to know how long training lasts, but the Trainer has no end that is known beforehand"
        f" (max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps}, training batches per epoch:"
        f" {batches}). Set `max_steps`, or for data without a length `max_epochs` together with"
        " `limit_train_batches`, or call `with_schedule(optimizer, total_steps=…)`, or use `Cyclic(step_size=…)`,"
        " which needs no total."
    )
