"""Per-step schedules for a LightningModule in one line."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.optim import Optimizer

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require
from lightning_clr.configure import advance, keep_plans, scheduled, start_plans
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
    _has_schedule = False

    def __init__(
        self, *args: Any, schedule: Schedule | None = None, lr_bounds: LRBounds | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if schedule is not None:  # or else the class's
            self.schedule = schedule
        self.lr_bounds = lr_bounds
        _require_schedule(self.schedule, lr_bounds)

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
            TypeError: If ``schedule`` or ``lr_bounds`` have been set to something else.
        """
        _require_schedule(self.schedule, self.lr_bounds)
        self._has_schedule = True
        return scheduled(self, optimizer, self.schedule, self.lr_bounds, total_steps)

    def on_fit_start(self) -> None:
        """Start from the schedule's learning rate, and plan anew if a ``BatchSizeFinder`` has changed the length."""
        super().on_fit_start()  # type: ignore[misc]
        trainer: Any = self.trainer  # type: ignore[attr-defined]
        if not (self._has_schedule or trainer.lr_scheduler_configs):
            rank_zero_warn(
                f"{type(self).__name__} has the CLRMixin, but no schedule: let `configure_optimizers` return"
                " `self.with_schedule(optimizer)`, or leave the mixin out."
            )
        start_plans(trainer)

    def on_train_epoch_start(self) -> None:
        """Plan anew if training has become longer or shorter, and take the place of a schedule of another kind."""
        super().on_train_epoch_start()  # type: ignore[misc]
        keep_plans(self.trainer)  # type: ignore[attr-defined]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Do not advance on a step that mixed precision has skipped."""
        step = partial(super().lr_scheduler_step, scheduler, metric)  # type: ignore[misc]
        advance(self.trainer, scheduler, step)  # type: ignore[attr-defined]


def _require_schedule(schedule: Any, lr_bounds: Any) -> None:
    is_schedule, is_bounds = isinstance(schedule, Schedule), isinstance(lr_bounds, LRBounds | None)
    require("schedule", schedule, "be a Schedule such as OneCycle()", lambda _: is_schedule, error=TypeError)
    require("lr_bounds", lr_bounds, "be LRBounds(base_lr, max_lr)", lambda _: is_bounds, error=TypeError)
