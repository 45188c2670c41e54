"""DeepSpeed's ZeRO, which hides optimizer, master weights and shards: the only room that knows its names.

Nothing is imported from DeepSpeed: what is here is asked of the engine that a trainer already has.
"""

from typing import Any

from lightning_clr.lightning import Trainer, is_deepspeed
from lightning_clr.trial.snapshot import Snapshot

_LASTING = {
    "DeepSpeedZeroOptimizer": (),  # stages 1 and 2: these are the weights and states of the optimizer within
    "DeepSpeedZeroOptimizer_Stage3": ("fp32_partitioned_groups_flat", "grad_partitions_flat_buffer"),
}
"""ZeRO's optimizers, and what each holds of tensors that outlive a step."""
_SHARDS = ("ds_tensor", "ds_secondary_tensor")  # of a parameter in stage 3
_SWAPS = ("swap_optimizer", "params_in_nvme_and_cpu")


def require_known_zero(trainer: Trainer) -> None:
    """Refuse, before the first step, those ways of DeepSpeed that a snapshot cannot put back.

    Raises:
        ValueError: If this is not ZeRO in stage 1, 2 or 3, or it swaps to a disk.
    """
    for optimizer in trainer.optimizers if is_deepspeed(trainer) else ():
        name = type(optimizer).__name__
        known = name in _LASTING and all(hasattr(optimizer, part) for part in _LASTING[name])
        swapped = [part for part in _SWAPS if getattr(optimizer, part, False)]
        if swapped or not known:
            raise ValueError(
                "Of DeepSpeed, a range test knows ZeRO stages 1, 2 and 3 without NVMe, got"
                f" {' with '.join([name, *swapped])}. Choose one of these stages, or find the bounds with another"
                " strategy at the same batch size, and set them."
            )


def remember_zero(snapshot: Snapshot, engine: Any) -> None:
    """Remember what training batches change in an engine, beside the module and the optimizer within.

    All attributes and containers of the engine's parts are put back: counters, loss scale, buckets, the order of
    parameters that stage 3 learns. Tensors are where they outlive a step; in stages 1 and 2 those are the optimizer's.
    """
    parameters = list(engine.module.parameters())
    for part in (engine, *map(vars, parameters)):
        snapshot.add(part, tensors=False)
    for name in _LASTING[type(engine.optimizer).__name__]:
        snapshot.add(getattr(engine.optimizer, name))
    snapshot.add([getattr(parameter, name, None) for parameter in parameters for name in _SHARDS])
