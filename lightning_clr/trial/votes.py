"""Whether all ranks have failed in the same step: asked beside the collectives, in which the others may be waiting."""

import itertools
import time
from typing import Any

import torch

from lightning_clr.lightning import Trainer

_PATIENCE = 30.0
"""Seconds that a rank waits for the others to fail too. Gradients keep all within a step of one another."""
_PAUSE = 0.05
_NUMBERS = itertools.count()


class Votes:
    """Finds out whether a step has failed on all ranks; to be made on all of them, as often.

    A rank that has failed alone must raise: the others wait for it in the backward pass, and end with it. Only the
    store by which ranks find one another can be asked without waiting for them.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._num_ranks = trainer.world_size
        self._name = f"lightning_clr/{next(_NUMBERS)}"

    def all_fail(self, step: int) -> bool:
        """Whether all ranks fail in this step; the answer is the same on all that ask."""
        if self._num_ranks == 1:
            return True
        try:
            store: Any = torch.distributed.distributed_c10d._get_default_store()
            return self._agree(store, f"{self._name}/{step}")
        except Exception:  # there is no store, or it has gone with its rank, or cannot compare
            return False

    def _agree(self, store: Any, name: str) -> bool:
        end = time.monotonic() + _PATIENCE
        failed = store.add(f"{name}/failed", 1)
        while failed < self._num_ranks and time.monotonic() < end:
            time.sleep(_PAUSE)
            failed = store.add(f"{name}/failed", 0)
        mine = "all" if failed == self._num_ranks else "some"
        return bool(store.compare_set(f"{name}/verdict", "", mine) == b"all")  # the first is that of all ranks
