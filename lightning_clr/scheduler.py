"""Applies any schedule to an optimizer's parameter groups."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require
from lightning_clr.schedules import Schedule


class ScheduleLR(LRScheduler):
    """Sets learning rate and momentum of every parameter group to what a :class:`Schedule` says.

    The bounds belong to the group with the largest learning rate; every other group keeps its ratio to it. A learning
    rate that is a tensor stays that tensor, filled in place. Momentum moves only in groups that use it: ``momentum``
    above zero, or ``betas[0]`` above zero (beta2 is never touched).

    A group that is added later joins in the ratio of its ``initial_lr`` to ``reference_lr`` if it brings one, and
    otherwise of its learning rate to the one in force. Whoever sets its learning rate afterwards, as Lightning's
    ``BackboneFinetuning`` does at every epoch, sets that ratio anew. The learning rates of the other groups are the
    schedule's alone.

    Resuming continues at the checkpoint's position, with the checkpoint's bounds. If training has become longer or
    shorter, also by another number of devices, the position on the schedule of the *new* length counts, and one warning
    tells the old and the new learning rate.

    Args:
        optimizer: The optimizer to drive.
        schedule: The policy.
        total_steps: Length of training in optimizer steps; ``None`` only if the schedule does not need it.
        bounds: Lower and upper learning rate. By default the optimizer's (largest) learning rate is ``max_lr`` and
            ``base_lr`` follows from the schedule's ``div_factor``.
        last_epoch: The last step already done, -1 to start; torch's name.
        reference_lr: The learning rate that has ratio 1. By default the largest of the optimizer's groups; with several
            optimizers, the largest of all.

    Raises:
        ValueError: If the schedule needs ``total_steps`` and there are none, or the optimizer has no positive learning
            rate.

    Example:
        >>> from lightning_clr import Cyclic
        >>> import torch
        >>> head, body = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        >>> groups = [{"params": head.parameters()}, {"params": body.parameters(), "lr": 0.1}]
        >>> optimizer = torch.optim.SGD(groups, lr=1.0)
        >>> scheduler = ScheduleLR(optimizer, Cyclic(step_size=2, div_factor=4), total_steps=None)
        >>> for _ in range(3):
        ...     print(scheduler.get_last_lr())
        ...     optimizer.step()
        ...     scheduler.step()
        [0.25, 0.025]
        [0.625, 0.0625]
        [1.0, 0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule,
        total_steps: int | None,
        bounds: LRBounds | None = None,
        last_epoch: int = -1,
        *,
        reference_lr: float | None = None,
    ) -> None:
        rule = "be a Schedule such as OneCycle()"
        require("schedule", schedule, rule, lambda value: isinstance(value, Schedule), error=TypeError)
        rule = "be LRBounds(base_lr, max_lr) or None"
        require("bounds", bounds, rule, lambda value: value is None or isinstance(value, LRBounds), error=TypeError)
        if total_steps is not None:
            require("total_steps", total_steps, "be at least 1 optimizer step and finite", lambda n: 1 <= n < math.inf)
        elif schedule.needs_total_steps:
            raise ValueError(f"{schedule} needs to know how long training lasts: pass `total_steps`.")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"`optimizer` must be a torch Optimizer, got {type(optimizer).__name__}.")
        if last_epoch == -1:
            for group in optimizer.param_groups:  # left over by an earlier scheduler, it would win over the group's lr
                group.pop("initial_lr", None)
        lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        reference_lr = max(lrs) if reference_lr is None else reference_lr
        require("lr", reference_lr, "be positive in at least one parameter group", lambda lr: lr > 0)

        self.schedule = schedule
        self.total_steps = total_steps
        self.bounds = schedule.bounds_below(reference_lr) if bounds is None else bounds
        self.ratios = [lr / reference_lr for lr in lrs]
        self.optimizer_stepped = False
        self._reference_lr = reference_lr
        self._lr = 0.0
        self._num_first_groups = len(lrs)
        self._late_lrs: list[float] = []  # as last written
        super().__init__(optimizer, last_epoch)  # makes the first step

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; another one may take its place, as finetuning-scheduler does."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        optimizer.register_step_post_hook(self._note_optimizer_step)

    @property
    def at_cycle_end(self) -> bool:
        """Whether the optimizer step made last was the last of a cycle, see :meth:`Schedule.ends_cycle`.

        A function of the position alone: it is true from the advance after that step until the next one, also over
        batches that are only accumulated and steps that mixed precision skips in between.
        """
        return self.schedule.ends_cycle(self.last_epoch - 1, self.total_steps)

    def step(self, epoch: int | None = None) -> None:
        """Advance by one optimizer step, or to step ``epoch``."""
        self._step_count += 1
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self.optimizer_stepped = False
        self.apply()

    def apply(self) -> None:
        """Write the current learning rate and momentum into the groups, whoever else has changed them."""
        groups, schedule = self._optimizer.param_groups, self.schedule
        late = groups[self._num_first_groups :]
        if late:
            self._read_late_groups()
        self._lr = largest = schedule.lr(self.last_epoch, self.total_steps, self.bounds)
        momentum = schedule.momentum(self.last_epoch, self.total_steps)
        self._last_lr = [largest * ratio for ratio in self.ratios[: len(groups)]]
        for group, lr in zip(groups, self._last_lr, strict=True):
            group["lr"] = in_place(group["lr"], lr)
            if momentum is not None:
                _set_momentum(group, momentum)
        self._late_lrs = [float(group["lr"]) for group in late] if late else []

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each group at the current step."""
        return [*self._last_lr]

    def set_bounds(self, bounds: LRBounds) -> None:
        """Move between other bounds from now on; position, ratios and momentum are kept."""
        self.bounds = bounds
        self.apply()

    def state_dict(self) -> dict[str, Any]:
        """Position, length, bounds and ratios as plain numbers (loads under ``weights_only=True``)."""
        self._read_late_groups()
        return {
            "last_epoch": self.last_epoch,
            "total_steps": self.total_steps,
            "base_lr": self.bounds.base_lr,
            "max_lr": self.bounds.max_lr,
            "ratios": list(self.ratios),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; the class docstring says what a changed length means."""
        self.last_epoch = state_dict["last_epoch"]
        self.bounds = LRBounds(state_dict["base_lr"], state_dict["max_lr"])
        self.ratios = list(state_dict["ratios"])
        self._late_lrs = []  # what the groups have now was not written in these ratios
        self.apply()
        changed = self.schedule.needs_total_steps and state_dict["total_steps"] not in (None, self.total_steps)
        if changed and _speaks_for_all_ranks():
            planned = self.schedule.lr(self.last_epoch, state_dict["total_steps"], self.bounds)
            warnings.warn(
                f"The checkpoint was made for {state_dict['total_steps']} optimizer steps, training now has"
                f" {self.total_steps}: the schedule continues at step {self.last_epoch} of the new length, with"
                f" lr {self._lr:.3g} instead of {planned:.3g}.",
                stacklevel=2,
            )

    def _read_late_groups(self) -> None:
        lr_in_force = self._lr or self.bounds.max_lr
        late = self._optimizer.param_groups[self._num_first_groups :]
        for index, (group, written) in enumerate(zip(late, self._late_lrs, strict=False), self._num_first_groups):
            if float(group["lr"]) != written:
                self.ratios[index] = float(group["lr"]) / lr_in_force
        for group in self.optimizer.param_groups[len(self.ratios) :]:
            brought = group.get("initial_lr")
            self.ratios.append(float(group["lr"]) / lr_in_force if brought is None else brought / self._reference_lr)

    def _note_optimizer_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # fused optimizers skip inside their kernel
        self.optimizer_stepped = found_inf is None or not bool(found_inf)


def in_place(old: float | Tensor, value: float | Tensor) -> float | Tensor:
    """``value``, in place of ``old`` if that is a tensor: compiled graphs and captured steps hold on to it."""
    return value if isinstance(old, float) or not isinstance(old, Tensor) else old.fill_(value)  # floats are faster


def _speaks_for_all_ranks() -> bool:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    old = group.get("momentum")
    if old:
        group["momentum"] = in_place(old, momentum)
    elif "betas" in group and group["betas"][0]:
        beta1, *others = group["betas"]
        group["betas"] = (in_place(beta1, momentum), *others)
