"""Hands the bounds that a range test has found to whatever drives the learning rate of a live training."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from lightning_clr.bounds import LRBounds
from lightning_clr.scheduler import ScheduleLR, refilled


def constant_lr(bounds: LRBounds) -> float:
    """The learning rate for training at a constant rate: a third of ``max_lr``.

    A cycle visits ``max_lr`` for a moment, constant training lives there. Smith sets the lower bound of his cycles to a
    third or a fourth of the upper one, since the best constant rate is usually within a factor of two of the largest
    that converges (Smith 2017, section 3.3, after Bengio 2012); a third stays on the safe side of it.

    Example:
        >>> constant_lr(LRBounds(0.01, 0.75))
        0.25
    """
    return bounds.max_lr / 3


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

    :class:`ScheduleLR` and torch's ``CyclicLR`` and ``OneCycleLR`` get both bounds. Any other scheduler that starts
    from a learning rate starts from ``max_lr``. Without one, or with ``ReduceLROnPlateau``, the groups are set to
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
    configured = constant_lr(bounds)
    for optimizer, lrs in zip(optimizers, peaks, strict=True):
        ratios = [lr / top for lr in lrs]
        drivers = [scheduler for scheduler in _drivers(optimizer, schedulers) if not _only_reacts(scheduler)]
        if not drivers:
            _set_lrs(optimizer, [constant_lr(bounds) * ratio for ratio in ratios])
        for scheduler in drivers:
            configured = bounds.max_lr
            _rebind(scheduler, bounds, ratios, top)
    return configured


def _drivers(optimizer: Optimizer, schedulers: Sequence[Any]) -> list[Any]:
    return [scheduler for scheduler in schedulers if getattr(scheduler, "optimizer", None) is optimizer]


def _only_reacts(scheduler: Any) -> bool:
    return isinstance(scheduler, ReduceLROnPlateau)


def _peak_lr(group: dict[str, Any], index: int, drivers: Sequence[Any]) -> float:
    for scheduler in drivers:
        if isinstance(scheduler, ScheduleLR):
            return scheduler.bounds.max_lr * scheduler.ratios[index]
        if isinstance(scheduler, CyclicLR):
            return float(scheduler.max_lrs[index])
        if isinstance(scheduler, OneCycleLR):
            return float(group["max_lr"])
        if not _only_reacts(scheduler):
            return float(group.get("initial_lr", group["lr"]))
    return float(group["lr"])


def _rebind(scheduler: Any, bounds: LRBounds, ratios: Sequence[float], top: float) -> None:
    optimizer = scheduler.optimizer
    if isinstance(scheduler, ScheduleLR):
        share = scheduler.bounds.max_lr / top  # below 1 if another optimizer has the largest learning rate
        scheduler.set_bounds(LRBounds(bounds.base_lr * share, bounds.max_lr * share))
        return
    base_lrs: list[float | Tensor] = [bounds.base_lr * ratio for ratio in ratios]
    max_lrs = [bounds.max_lr * ratio for ratio in ratios]
    if isinstance(scheduler, CyclicLR):
        scheduler.base_lrs, scheduler.max_lrs = base_lrs, max_lrs
        for group, base_lr in zip(optimizer.param_groups, base_lrs, strict=True):
            group["initial_lr"] = refilled(group["initial_lr"], base_lr)
    elif isinstance(scheduler, OneCycleLR):
        scheduler.base_lrs = base_lrs
        for group, base_lr, max_lr in zip(optimizer.param_groups, base_lrs, max_lrs, strict=True):
            final_div_factor = group["initial_lr"] / group["min_lr"]
            group.update(initial_lr=base_lr, max_lr=max_lr, min_lr=base_lr / final_div_factor)
    else:
        _rescale(scheduler, max_lrs)
        return
    with warnings.catch_warnings():  # torch wants get_lr to be called from step only
        warnings.simplefilter("ignore", UserWarning)
        _set_lrs(optimizer, scheduler.get_lr())
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def _rescale(scheduler: Any, max_lrs: Sequence[float]) -> None:
    """Let a scheduler that multiplies an initial learning rate start from ``max_lrs``."""
    groups = scheduler.optimizer.param_groups
    if not isinstance(scheduler, LRScheduler):
        warnings.warn(
            f"The bounds of the range test cannot reach a {type(scheduler).__name__}, which is not a torch scheduler:"
            " the optimizer's lr is set, but the scheduler may overwrite it.",
            stacklevel=4,
        )
    factors = [
        max_lr / float(group.get("initial_lr", group["lr"])) for group, max_lr in zip(groups, max_lrs, strict=True)
    ]
    for member in (scheduler, *getattr(scheduler, "_schedulers", ())):
        for name in ("base_lrs", "_last_lr"):
            if hasattr(member, name):
                setattr(member, name, [lr * factor for lr, factor in zip(getattr(member, name), factors, strict=True)])
    for group, factor in zip(groups, factors, strict=True):
        for name in ("initial_lr", "lr"):
            if name in group:
                group[name] = refilled(group[name], float(group[name]) * factor)


def _set_lrs(optimizer: Optimizer, lrs: Sequence[float | Tensor]) -> None:
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = refilled(group["lr"], lr)
