"""Hands the bounds that a range test has found to whatever drives the learning rate of a live training."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from lightning_clr.bounds import LRBounds
from lightning_clr.scheduler import ScheduleLR, in_place, own_schedulers, write_lrs

_WORDS_WITH_LR = {"min", "max", "base", "init", "initial", "warmup", "start", "end", "final", "peak", "target"}
"""What a number that is a learning rate may be called beside ``lr``; ``lr_decay`` is another thing."""


def constant_lr(bounds: LRBounds) -> float:
    """The learning rate for training at a constant rate: half of ``max_lr``.

    A cycle visits ``max_lr`` for a moment, constant training lives there. The best constant rate is usually within a
    factor of two of the largest that converges (Smith 2017, section 3.3, after Bengio 2012).

    Example:
        >>> constant_lr(LRBounds(0.01, 0.5))
        0.25
    """
    return bounds.max_lr / 2


def peak_lrs(optimizers: Sequence[Optimizer], schedulers: Sequence[Any]) -> list[list[float]]:
    """The largest learning rate planned for each group of each optimizer.

    Args:
        optimizers: The optimizers.
        schedulers: The schedulers that drive some of them.

    Returns:
        One list per optimizer with one learning rate per parameter group.
    """
    return [
        [_peak_lr(group, index, _drivers(optimizer, schedulers)) for index, group in enumerate(optimizer.param_groups)]
        for optimizer in optimizers
    ]


def apply_bounds(optimizers: Sequence[Optimizer], schedulers: Sequence[Any], bounds: LRBounds) -> float:
    """Make the schedulers move between ``bounds``, or set the constant learning rate where there is no scheduler.

    :class:`ScheduleLR` and torch's ``CyclicLR`` and ``OneCycleLR`` get both bounds. Any other scheduler of torch's that
    starts from a learning rate starts from ``max_lr``; of one that is not torch's, such as timm's, all learning rates
    are scaled so that the largest is ``max_lr``. Without one, or with ``ReduceLROnPlateau``, the groups are set to
    :func:`constant_lr`. All groups of all optimizers keep their ratios.

    Args:
        optimizers: The optimizers, before their first step.
        schedulers: The schedulers that drive some of them.
        bounds: The bounds of the group with the largest learning rate.

    Returns:
        The learning rate that the module could have been configured with: ``max_lr``, or the constant one.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> scheduler = CyclicLR(optimizer, base_lr=0.1, max_lr=1.0, step_size_up=10)
        >>> apply_bounds([optimizer], [scheduler], LRBounds(0.02, 0.3)), scheduler.get_last_lr()
        (0.3, [0.02])
    """
    peaks = peak_lrs(optimizers, schedulers)
    top = max(lr for lrs in peaks for lr in lrs)
    for optimizer, lrs in zip(optimizers, peaks, strict=True):
        ratios = [lr / top for lr in lrs]
        drivers = _drivers(optimizer, schedulers)
        own = own_schedulers(drivers)
        if not drivers:
            write_lrs(optimizer, [constant_lr(bounds) * ratio for ratio in ratios])
        if len(own) < len(drivers):
            _restart(optimizer, drivers, bounds, lrs, top)
        for scheduler in own:
            share = scheduler.bounds.max_lr / top  # below 1 if another optimizer has the largest learning rate
            scheduler.set_bounds(LRBounds(bounds.base_lr * share, bounds.max_lr * share))
    for scheduler in schedulers:
        if hasattr(scheduler, "_last_lr"):
            scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]
    scheduled = any(_drivers(optimizer, schedulers) for optimizer in optimizers)
    return bounds.max_lr if scheduled else constant_lr(bounds)


def peak_momentum(optimizer: Optimizer, schedulers: Sequence[Any]) -> float | None:
    """The momentum that training will have at ``max_lr``; ``None`` if no scheduler moves it."""
    for scheduler in _drivers(optimizer, schedulers):
        if isinstance(scheduler, ScheduleLR):
            return scheduler.schedule.peak_momentum
        if isinstance(scheduler, CyclicLR) and scheduler.cycle_momentum:
            return float(scheduler.base_momentums[0])
        if isinstance(scheduler, OneCycleLR) and scheduler.cycle_momentum:
            return float(optimizer.param_groups[0]["base_momentum"])
    return None


def _drivers(optimizer: Optimizer, schedulers: Sequence[Any]) -> list[Any]:
    """The schedulers that set the learning rates of an optimizer; of a composite one its members."""
    drivers = []
    for scheduler in schedulers:
        if isinstance(scheduler, SequentialLR | ChainedScheduler):
            drivers += _drivers(optimizer, scheduler._schedulers)
        elif getattr(scheduler, "optimizer", None) is optimizer and not isinstance(scheduler, ReduceLROnPlateau):
            drivers.append(scheduler)
    return drivers


def _peak_lr(group: dict[str, Any], index: int, drivers: Sequence[Any]) -> float:
    for scheduler in drivers:
        if isinstance(scheduler, ScheduleLR):
            return scheduler.bounds.max_lr * scheduler.ratios[index]
        if isinstance(scheduler, CyclicLR):
            return float(scheduler.max_lrs[index])
        if isinstance(scheduler, OneCycleLR):
            return float(group["max_lr"])
        if not _is_torchs(scheduler):
            named: list[Any] = [getattr(scheduler, name, None) for name in ("max_lr", "lr_max", "peak_lr")]
            return next((float(lr) for lr in named if _is_number(lr)), _initial_lr(group))
    return _initial_lr(group) if drivers else float(group["lr"])


def _initial_lr(group: dict[str, Any]) -> float:
    return float(group.get("initial_lr", group["lr"]))


def _restart(
    optimizer: Optimizer, drivers: Sequence[Any], bounds: LRBounds, peaks: Sequence[float], top: float
) -> None:
    """Bring groups and schedulers to where they were if the schedulers had been constructed with the bounds."""
    ratios = [lr / top for lr in peaks]
    base_lrs: list[float | Tensor] = [bounds.base_lr * ratio for ratio in ratios]
    max_lrs: list[float | Tensor] = [bounds.max_lr * ratio for ratio in ratios]
    initial_lrs = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    between = [scheduler for scheduler in drivers if isinstance(scheduler, CyclicLR | OneCycleLR)]
    starts_low = any(_first_lrs(scheduler) == initial_lrs for scheduler in drivers)
    start_lrs = base_lrs if starts_low else max_lrs
    for scheduler in drivers:
        _hand_over(scheduler, initial_lrs, base_lrs, max_lrs, start_lrs, bounds.max_lr / top)
    for group, initial_lr, start_lr in zip(optimizer.param_groups, initial_lrs, start_lrs, strict=True):
        warmth = float(group["lr"]) / float(initial_lr) if initial_lr else 1.0  # below 1 at the start of a warm-up
        group["lr"] = in_place(group["lr"], start_lr * warmth)
        if "initial_lr" in group:
            group["initial_lr"] = in_place(group["initial_lr"], start_lr)
    for scheduler in between:
        if scheduler.last_epoch >= 0:  # others wait for their turn in a sequence
            with warnings.catch_warnings():  # torch wants get_lr to be called from step only
                warnings.simplefilter("ignore", UserWarning)
                write_lrs(optimizer, scheduler.get_lr())


def _first_lrs(scheduler: Any) -> Any:
    """The lower learning rates, if a scheduler moves between two: a warm-up before it leads up to them."""
    if isinstance(scheduler, ScheduleLR):
        return [scheduler.bounds.base_lr * ratio for ratio in scheduler.ratios]
    return scheduler.base_lrs if isinstance(scheduler, CyclicLR | OneCycleLR) else None


def _hand_over(
    scheduler: Any,
    initial_lrs: list[Any],
    base_lrs: list[Any],
    max_lrs: list[Any],
    start_lrs: list[Any],
    factor: float,
) -> None:
    if isinstance(scheduler, CyclicLR):
        scheduler.base_lrs, scheduler.max_lrs = base_lrs, max_lrs
    elif isinstance(scheduler, OneCycleLR):
        scheduler.base_lrs = base_lrs
        for group, base_lr, max_lr in zip(scheduler.optimizer.param_groups, base_lrs, max_lrs, strict=True):
            final_div_factor = group["initial_lr"] / group["min_lr"] if group["min_lr"] else 1.0  # frozen at 0
            group.update(max_lr=max_lr, min_lr=base_lr / final_div_factor)
    elif _is_torchs(scheduler):
        scheduler.base_lrs = [*start_lrs]
    elif not _scale(scheduler, initial_lrs, start_lrs, factor):
        warnings.warn(
            f"The bounds of the range test cannot reach a {type(scheduler).__name__}, which is not a torch scheduler"
            " and has no `base_values` or `base_lrs`: the optimizer's lr is set, but the scheduler may overwrite it."
            f" Construct it with {max_lrs[0]:.3g} as the largest learning rate.",
            stacklevel=4,
        )


def _is_torchs(scheduler: Any) -> bool:
    return type(scheduler).__module__.startswith("torch.") or isinstance(scheduler, ScheduleLR)


def _scale(scheduler: Any, initial_lrs: list[Any], start_lrs: list[Any], factor: float) -> bool:
    """Multiply all learning rates of a scheduler that is not torch's, such as timm's, so that it keeps its form.

    They are the lists with one number for each group that it starts from (``base_values``, ``base_lrs``) or warms up by
    (``warmup_steps``), and the numbers that are named as learning rates (``lr_min``, ``warmup_start_lr``).
    """
    starts = [name for name in ("base_values", "base_lrs") if isinstance(getattr(scheduler, name, None), list)]
    if not starts or getattr(scheduler, "param_group_field", "lr") != "lr":
        return False
    for name, value in vars(scheduler).items():
        if name in starts:
            setattr(scheduler, name, [*start_lrs] if value == initial_lrs else [one * factor for one in value])
        elif name == "warmup_steps" and isinstance(value, list):
            setattr(scheduler, name, [one * factor for one in value])
        elif _is_named_lr(name) and _is_number(value):
            setattr(scheduler, name, value * factor)
    return True


def _is_named_lr(name: str) -> bool:
    words = {*name.split("_")} - {""}
    return bool(words & {"lr", "eta"}) and words <= {"lr", "eta"} | _WORDS_WITH_LR


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
