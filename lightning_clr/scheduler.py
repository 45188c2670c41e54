"""Applies any schedule to an optimizer's parameter groups."""

import contextlib
import math
import warnings
from collections.abc import Iterable, Sequence
from numbers import Real
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

    The learning rates that the ratios are made of are the groups' ``initial_lr`` if an earlier scheduler has left one,
    as with torch's schedulers: a warm-up may come first, in time and in the code. In a ``SequentialLR`` nothing is
    written into the groups before its turn.

    A group that is added later joins in the ratio of its ``initial_lr`` to ``reference_lr`` if it brings one, and
    otherwise of its learning rate to the one in force. Whoever sets its learning rate afterwards, as Lightning's
    ``BackboneFinetuning`` does at every epoch, sets that ratio anew. The learning rates of the other groups are the
    schedule's alone.

    Resuming continues at the checkpoint's position, with the checkpoint's bounds. If training has become longer or
    shorter, also by another number of devices, the position on the schedule of the *new* length counts, and one warning
    tells the old and the new learning rate. The state of another scheduler gives the position alone, with a warning.

    Steps beyond ``total_steps`` hold the end, and say so once.

    Args:
        optimizer: The optimizer to drive, or anything with ``param_groups``. The groups of an optimizer within it are
            written to as well where the wrapper has its own copies of them.
        schedule: The policy.
        total_steps: Length of training in optimizer steps; ``None`` only if the schedule does not need it.
        bounds: Lower and upper learning rate. By default the optimizer's (largest) learning rate is ``max_lr`` and
            ``base_lr`` follows from the schedule's ``div_factor``.
        last_epoch: The last step already done, -1 to start; torch's name.
        reference_lr: The learning rate that has ratio 1. By default the largest of the optimizer's groups; with several
            optimizers, the largest of all.

    Raises:
        ValueError: If the schedule needs ``total_steps`` and there are none, or the optimizer has no positive learning
            rate, or one that is not a number.

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
        if not is_optimizer(optimizer):
            raise TypeError(f"`optimizer` must be a torch Optimizer, got {type(optimizer).__name__}.")
        require_numeric_lrs([optimizer], "A schedule sets")
        require_initial_lrs = last_epoch != -1
        lrs = [_initial_lr(group, require_initial_lrs) for group in optimizer.param_groups]
        reference_lr = max(lrs) if reference_lr is None else reference_lr
        require("lr", reference_lr, "be positive in at least one parameter group", lambda lr: lr > 0)

        self.schedule = schedule
        self.total_steps = total_steps
        self.bounds = schedule.bounds_below(reference_lr) if bounds is None else bounds
        self.ratios = [lr / reference_lr for lr in lrs]
        self.base_lrs = [*lrs]
        self.last_epoch = last_epoch
        self.is_restored = False
        """Whether the position comes from a checkpoint."""
        self.is_underway = False
        """Whether the training that it was made for has begun, and its plan is kept."""
        self.planned_for: Any = None
        """What ``total_steps`` was worked out from, for whoever did so and may have to again; None if it was given."""
        self._reference_lr = reference_lr
        self._lr = 0.0
        self._num_first_groups = len(lrs)
        self._late_lrs: list[float] = []  # as last written
        self._has_told_end = False
        self.optimizer = optimizer
        self._initial_step()  # torch's constructor would do no more than this, for torch's own optimizers only

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy listens to its own optimizer, whose hooks have not been copied."""
        self.__dict__.update(state)
        self.optimizer = self._optimizer

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer; another one may take its place, as finetuning-scheduler does."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._inner = inner_optimizers(optimizer)
        if not _listens(optimizer):
            with contextlib.suppress(AttributeError):  # a wrapper without hooks
                optimizer.register_step_post_hook(_count_step)
        self._steps_known = _steps(optimizer)

    @property
    def optimizer_stepped(self) -> bool | None:
        """Whether the optimizer has stepped since the schedule did; None for a wrapper whose hooks do not tell."""
        optimizer = self._optimizer
        is_told = getattr(type(optimizer).step, "hooked", False) and _listens(optimizer)
        return _steps(optimizer) != self._steps_known if is_told else None

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
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        """What torch's ``SequentialLR`` calls when a turn begins."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._steps_known = _steps(self._optimizer)
        self.apply()
        if self.total_steps is not None and self.last_epoch > self.total_steps and not self._has_told_end:
            self._tell_end(self.total_steps)

    def apply(self) -> None:
        """Write the current learning rate and momentum into the groups, whoever else has changed them.

        Not while this waits for its turn in a ``SequentialLR``.
        """
        if self.last_epoch < 0:
            return
        groups, schedule = self._optimizer.param_groups, self.schedule
        late = groups[self._num_first_groups :]
        if late:
            self._read_late_groups()
        self._lr = largest = float(schedule.lr(self.last_epoch, self.total_steps, self.bounds))
        momentum = schedule.momentum(self.last_epoch, self.total_steps)
        momentum = None if momentum is None else float(momentum)  # a tensor would be shared
        self._last_lr = [largest * ratio for ratio in self.ratios[: len(groups)]]
        for group, lr in zip(groups, self._last_lr, strict=True):
            group["lr"] = in_place(group["lr"], lr)
            if momentum is not None:
                _set_momentum(group, momentum)
        for twin, lr in _twins(groups, self._inner, self._last_lr):
            twin["lr"] = in_place(twin["lr"], lr)
            if momentum is not None:
                _set_momentum(twin, momentum)
        self._late_lrs = [float(group["lr"]) for group in late] if late else []

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each group at the current step, or at the first one before its turn."""
        largest = float(self.schedule.lr(max(self.last_epoch, 0), self.total_steps, self.bounds))
        return [largest * ratio for ratio in self.ratios[: len(self._optimizer.param_groups)]]

    def set_bounds(self, bounds: LRBounds) -> None:
        """Move between other bounds from now on; position, ratios and momentum are kept."""
        self.bounds = bounds
        self.apply()

    def move_to(self, step: int, total_steps: int | None) -> None:
        """Continue at another step, or with another length of training."""
        self.last_epoch, self.total_steps = step, total_steps
        self.apply()

    def state_dict(self) -> dict[str, Any]:
        """Position, length, bounds and ratios as plain numbers (loads under ``weights_only=True``)."""
        self._read_late_groups()
        state = {
            "last_epoch": self.last_epoch,
            "total_steps": self.total_steps,
            "base_lr": self.bounds.base_lr,
            "max_lr": self.bounds.max_lr,
            "ratios": list(self.ratios),
        }
        return state if self._is_in_force() else {**state, "in_force": False}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; the class docstring says what a changed length means."""
        if not state_dict.keys() >= {"last_epoch", "total_steps", "base_lr", "max_lr", "ratios"}:
            self._load_position(state_dict)
            return
        self.last_epoch = state_dict["last_epoch"]
        self.bounds = LRBounds(state_dict["base_lr"], state_dict["max_lr"])
        self.ratios = list(state_dict["ratios"])
        self.is_restored = True
        self._late_lrs = []  # what the groups have now was not written in these ratios
        if state_dict.get("in_force", True):
            self.apply()
        changed = self.schedule.needs_total_steps and state_dict["total_steps"] not in (None, self.total_steps)
        if changed:
            planned = self.schedule.lr(self.last_epoch, state_dict["total_steps"], self.bounds)
            _warn(
                f"The checkpoint was made for {state_dict['total_steps']} optimizer steps, training now has"
                f" {self.total_steps}: the schedule continues at step {self.last_epoch} of the new length, with"
                f" lr {self._lr:.3g} instead of {planned:.3g}."
            )
            self._has_told_end = self.total_steps is not None and self.last_epoch >= self.total_steps

    def _load_position(self, state_dict: dict[str, Any]) -> None:
        """What can be taken from the state of another scheduler."""
        position = state_dict.get("last_epoch")
        if isinstance(position, int) and position >= 0:
            self.move_to(position, self.total_steps)
        _warn(
            f"The checkpoint was made with another scheduler, whose state has {sorted(state_dict)}: of it only the"
            f" position can be taken. {type(self.schedule).__name__} goes on at step {self.last_epoch} between the"
            f" bounds configured, {self.bounds.base_lr:.3g} and {self.bounds.max_lr:.3g}."
        )

    def _is_in_force(self) -> bool:
        """Whether the groups have what was written last: another scheduler's turn may have come."""
        groups = self._optimizer.param_groups[: self._num_first_groups]
        written = [self._lr * ratio for ratio in self.ratios]
        same = (math.isclose(group["lr"], lr, rel_tol=1e-6) for group, lr in zip(groups, written, strict=False))
        return self.last_epoch >= 0 and all(same)

    def _tell_end(self, total_steps: int) -> None:
        self._has_told_end = True
        _warn(
            f"{type(self.schedule).__name__} was planned for {total_steps} optimizer steps, but training makes more:"
            f" from now on the learning rate is {self._lr:.3g}. If that is not meant, say how many steps there are:"
            " `total_steps=…` of `with_schedule` or of `ScheduleLR`."
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


def in_place(old: float | Tensor, value: float | Tensor) -> float | Tensor:
    """``value``, in place of ``old`` if that is a tensor: compiled graphs and captured steps hold on to it."""
    return value if isinstance(old, float) or not isinstance(old, Tensor) else old.fill_(value)  # floats are faster


def is_optimizer(value: Any) -> bool:
    """Whether a value can be driven: a torch Optimizer, or a wrapper that only looks like one."""
    return isinstance(value, Optimizer) or (hasattr(value, "param_groups") and callable(getattr(value, "step", None)))


def require_numeric_lrs(optimizers: Iterable[Optimizer], doing: str) -> None:
    """Refuse optimizers whose groups have no number as their learning rate.

    Args:
        optimizers: The optimizers.
        doing: What would be done with the learning rates, as the start of the message.

    Raises:
        ValueError: If one finds its own learning rate, as Adafactor does with ``lr=None``.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if not isinstance(group.get("lr"), Real | Tensor):
                held = f"lr={group['lr']!r}" if "lr" in group else "no `lr`"
                raise ValueError(
                    f"{doing} the learning rates of {type(optimizer).__name__}, but a parameter group of it has"
                    f" {held}: such an optimizer finds its own. Give it a number as `lr`,"
                    " and switch its own rule off where it has one (`relative_step=False` of Adafactor), or train it"
                    " without schedule and range test."
                )


def inner_optimizers(optimizer: Any) -> list[Any]:
    """The optimizers that a wrapper holds and that have the same parameters, at any depth."""
    inner = []
    for value in list(getattr(optimizer, "__dict__", {}).values()):
        if value is not optimizer and is_optimizer(value) and _same_parameters(optimizer, value):
            inner += [value, *inner_optimizers(value)]
    return inner


def write_lrs(optimizer: Optimizer, lrs: Sequence[float | Tensor]) -> None:
    """Give each group its learning rate, also in an optimizer within."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = in_place(group["lr"], lr)
    for twin, lr in _twins(optimizer.param_groups, inner_optimizers(optimizer), lrs):
        twin["lr"] = in_place(twin["lr"], lr)


def _twins(groups: list[Any], inner: Sequence[Any], lrs: Sequence[Any]) -> Iterable[tuple[dict[str, Any], Any]]:
    """Copies of the groups in optimizers within, which loading a checkpoint makes too, with the learning rates."""
    for optimizer in inner:
        for group, twin, lr in zip(groups, optimizer.param_groups, lrs, strict=False):
            if twin is not group and "lr" in twin:
                yield twin, lr


def _same_parameters(one: Any, other: Any) -> bool:
    first, second = ([[*map(id, group["params"])] for group in part.param_groups] for part in (one, other))
    return first == second


def _initial_lr(group: dict[str, Any], required: bool) -> float:
    """What an earlier scheduler has noted, or the learning rate of now, which is noted then as torch does."""
    if required and "initial_lr" not in group:
        raise KeyError("`last_epoch` continues a training: `initial_lr` must be in each parameter group.")
    lr = group["lr"]
    return float(group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr))


def _count_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    """The hook of every optimizer that a schedule drives: it holds nothing and nobody."""
    found_inf = getattr(optimizer, "found_inf", None)  # fused optimizers skip inside their kernel
    if found_inf is None or not bool(found_inf):
        optimizer._lightning_clr_steps = _steps(optimizer) + 1


def _steps(optimizer: Any) -> int:
    return getattr(optimizer, "_lightning_clr_steps", 0)


def _listens(optimizer: Any) -> bool:
    return _count_step in getattr(optimizer, "_optimizer_step_post_hooks", {}).values()


def _warn(message: str) -> None:
    """Once for all ranks."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_rank() == 0:
        warnings.warn(message, stacklevel=4)


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    old = group.get("momentum")
    if old:
        group["momentum"] = in_place(old, momentum)
    elif "betas" in group and group["betas"][0]:
        beta1, *others = group["betas"]
        group["betas"] = (in_place(beta1, momentum), *others)


def own_schedulers(schedulers: Iterable[Any]) -> list[ScheduleLR]:
    """Those of this package, in their order."""
    return [scheduler for scheduler in schedulers if isinstance(scheduler, ScheduleLR)]
