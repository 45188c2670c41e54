"""Which optimizer steps are made, whoever makes them, and which mixed precision skips."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from lightning_clr.lightning import Trainer, is_deepspeed


class StepWatch:
    """Notices the optimizer steps of a batch.

    Every torch optimizer that steps is heard, also one within a wrapper, and whatever the method is called that makes
    it step (``second_step`` of SAM). Until one has been heard of, Lightning's count of steps is believed, and in manual
    optimization that weights have been written to.

    Args:
        trainer: The trainer, whose ``global_step`` counts.
        optimizers: The optimizers whose steps matter.
    """

    def __init__(self, trainer: Trainer, optimizers: Sequence[Optimizer]) -> None:
        self._trainer = trainer
        self._optimizers = optimizers
        self._parameters = parameters_of(optimizers)
        self._ids = {id(parameter) for parameter in self._parameters}
        self._has_heard = False
        self._is_stepped = False
        self._before = self._traces()

    def __enter__(self) -> None:
        """Listen to one batch."""
        self._is_stepped = False
        self._before = self._traces()
        self._handle = register_optimizer_step_post_hook(self._note)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    @property
    def stepped(self) -> bool:
        """Whether an optimizer has stepped in the last batch; not if mixed precision has skipped the step."""
        if self._is_stepped or self._has_heard:
            return self._is_stepped
        (steps, versions), (steps_now, versions_now) = self._before, self._traces()
        if steps != steps_now and may_skip(self._trainer):
            return not is_skipped(self._trainer, self._optimizers, None)
        return steps != steps_now or versions != versions_now

    def _note(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        found_inf = getattr(optimizer, "found_inf", None)  # fused optimizers skip inside their kernel
        if self._is_ours(optimizer) and (found_inf is None or not bool(found_inf)):
            self._is_stepped = self._has_heard = True

    def _is_ours(self, optimizer: Any) -> bool:
        """Not one that a step trains something else with."""
        known = any(one is optimizer for one in self._optimizers)  # ZeRO's have other parameters at every step
        return known or any(id(parameter) in self._ids for parameter in parameters_of([optimizer]))

    def _traces(self) -> tuple[int, list[int]]:
        """What steps leave behind that nobody has been heard to make."""
        module: Any = self._trainer.lightning_module
        is_silent = not (self._has_heard or module.automatic_optimization)
        return self._trainer.global_step, [one._version for one in self._parameters] if is_silent else []


def parameters_of(optimizers: Iterable[Optimizer]) -> list[Tensor]:
    """All parameters of some optimizers."""
    return [parameter for one in optimizers for group in one.param_groups for parameter in group["params"]]


def may_skip(trainer: Trainer) -> bool:
    """Whether a training may skip optimizer steps for want of finite gradients in half precision."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return is_deepspeed(trainer) or (scaler is not None and scaler.is_enabled())


def is_skipped(trainer: Trainer, optimizers: Iterable[Optimizer], stepped: bool | None) -> bool:
    """Whether mixed precision has skipped the optimizer step that was due in automatic optimization.

    Args:
        trainer: The trainer.
        optimizers: Its optimizers.
        stepped: Whether they have stepped; None if nobody knows.
    """
    if stepped or not may_skip(trainer):
        return False
    if is_deepspeed(trainer):
        engine: Any = trainer.model
        return stepped is False or not engine.was_step_applied()
    if stepped is False and trainer.world_size > 1:
        return True  # on all ranks, whose gradients may differ
    # the batch may have had no loss, which keeps a scaler from stepping too
    return any(_has_infinity(parameter.grad) for parameter in parameters_of(optimizers))


def _has_infinity(gradient: Tensor | None) -> bool:
    if gradient is None:
        return False
    shard = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    values = shard.coalesce().values() if shard.is_sparse else shard
    return not bool(values.isfinite().all())
