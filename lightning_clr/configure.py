"""What ``configure_optimizers`` returns to have a schedule stepping per optimizer step, with or without the mixin."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.optim import Optimizer

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require
from lightning_clr.lightning import LightningModule, length_settings, lr_schedulers, optimizer_steps
from lightning_clr.scheduler import ScheduleLR, is_optimizer, own_schedulers, require_numeric_lrs
from lightning_clr.schedules import Schedule
from lightning_clr.steps import is_skipped
from lightning_clr.trial.private import batches_done


def scheduled(
    pl_module: Any,
    optimizer: Optimizer | Sequence[Optimizer],
    schedule: Schedule,
    lr_bounds: LRBounds | None = None,
    total_steps: int | None = None,
) -> Any:
    """What ``configure_optimizers`` of any module should return, see :meth:`~lightning_clr.CLRMixin.with_schedule`."""
    optimizers: list[Any] = [optimizer] if is_optimizer(optimizer) else list(optimizer or ())  # type: ignore[arg-type]
    require("optimizer", optimizer, "be an Optimizer, or a list of them", lambda _: optimizers)
    require_numeric_lrs(optimizers, "A schedule sets")
    planned_for = None
    if total_steps is None and schedule.needs_total_steps:
        total_steps = optimizer_steps(pl_module.trainer)
        planned_for = length_settings(pl_module.trainer)
    reference_lr = max(float(group.get("initial_lr", group["lr"])) for one in optimizers for group in one.param_groups)
    configs = []
    for one in optimizers:
        scheduler = ScheduleLR(one, schedule, total_steps, lr_bounds, reference_lr=reference_lr)
        scheduler.planned_for = planned_for
        configs.append({"optimizer": one, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}})
    return configs[0] if is_optimizer(optimizer) else configs


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
    for name, then in (("on_fit_start", start_plans), ("on_train_epoch_start", keep_plans)):
        setattr(module, name, partial(_and_then, module, getattr(module, name).__func__, then))


def has_schedule_attached(pl_module: LightningModule) -> bool:
    """Whether :func:`attach_schedule` has been here."""
    return getattr(pl_module.configure_optimizers, "func", None) is _configure_scheduled


def _configure_scheduled(pl_module: Any, plain: Any, schedule: Schedule, lr_bounds: LRBounds | None) -> Any:
    optimizer = plain(pl_module)
    if isinstance(optimizer, dict) and "lr_scheduler" not in optimizer:
        optimizer = optimizer["optimizer"]
    if not is_optimizer(optimizer) and not _are_optimizers(optimizer):
        raise ValueError(
            f"{type(schedule).__name__} can be attached where `configure_optimizers` returns an optimizer or a list of"
            f" optimizers, but that of {type(pl_module).__name__} returns {type(optimizer).__name__} with more in it."
            " Let it return optimizers without schedulers, or do not ask for a schedule."
        )
    return scheduled(pl_module, optimizer, schedule, lr_bounds)


def _are_optimizers(optimizers: Any) -> bool:
    return isinstance(optimizers, list | tuple) and all(is_optimizer(one) for one in optimizers)


def _lr_scheduler_step(pl_module: Any, plain: Any, scheduler: Any, metric: Any) -> None:
    advance(pl_module.trainer, scheduler, partial(plain, pl_module, scheduler, metric))


def _and_then(pl_module: Any, plain: Any, then: Callable[[Any], None]) -> None:
    plain(pl_module)
    then(pl_module.trainer)


def start_plans(trainer: Any) -> None:
    """Start from each schedule's learning rate, with the length that training has now that it is about to begin."""
    for scheduler in own_schedulers(lr_schedulers(trainer)):
        scheduler.is_underway = True
        _keep_length(trainer, scheduler)
        scheduler.apply()


def keep_plans(trainer: Any, batches: int = 0) -> None:
    """Have each schedule end when training ends, and be where training is.

    Its length is worked out anew if what it followed from has changed: data that were loaded again, the trainer's
    limits. It takes the place of a schedule that a checkpoint does not know.

    Args:
        trainer: The trainer.
        batches: Number of batches of this epoch that have been trained on.
    """
    for scheduler in own_schedulers(lr_schedulers(trainer)):
        if scheduler.is_underway:  # these are not the steps of one of Lightning's finders
            if trainer.ckpt_path and not scheduler.is_restored:
                _take_place(scheduler, trainer.global_step // len(trainer.optimizers) - (batches > 0))
            _keep_length(trainer, scheduler, batches)


def advance(trainer: Any, scheduler: Any, step: Callable[[], object]) -> None:
    """Make the step of a scheduler; of ours not after an optimizer step that mixed precision has skipped.

    The place for a last look at the plan, since hooks that come earlier may be the user's own.
    """
    if isinstance(scheduler, ScheduleLR):
        keep_plans(trainer, batches_done(trainer))
        if is_skipped(trainer, [scheduler.optimizer], scheduler.optimizer_stepped):
            return
    step()


def _keep_length(trainer: Any, scheduler: ScheduleLR, batches: int = 0) -> None:
    settings = length_settings(trainer)
    if scheduler.planned_for not in (None, settings):
        scheduler.planned_for = settings
        done = scheduler.last_epoch + (batches > 0)
        resumes = None if scheduler.last_epoch == 0 and batches == 0 else False
        scheduler.move_to(scheduler.last_epoch, done + optimizer_steps(trainer, batches, resumes))


def _take_place(scheduler: ScheduleLR, step: int) -> None:
    scheduler.is_restored = step > 0
    if step > 0 and step != scheduler.last_epoch:
        scheduler.move_to(step, scheduler.total_steps)
        rank_zero_warn(
            f"The checkpoint does not say where {type(scheduler.schedule).__name__} was: it goes on at step {step} of"
            f" {scheduler.total_steps}, with lr {scheduler.get_last_lr()[0]:.3g}."
        )
