"""Learning rate range tests, cyclical learning rates and 1cycle for PyTorch Lightning."""

import torch

from lightning_clr.bounds import LRBounds
from lightning_clr.cli import CLRCLI
from lightning_clr.mixin import CLRMixin
from lightning_clr.range_test import LRRangeTest, lr_range_test
from lightning_clr.result import RangeTestResult
from lightning_clr.scheduler import ScheduleLR
from lightning_clr.schedules import Cyclic, OneCycle, Schedule, Sweep

__all__ = [
    "CLRCLI",
    "CLRMixin",
    "Cyclic",
    "LRBounds",
    "LRRangeTest",
    "OneCycle",
    "RangeTestResult",
    "Schedule",
    "ScheduleLR",
    "Sweep",
    "lr_range_test",
]

# hyper-parameters in a checkpoint may hold these, and checkpoints are loaded with weights_only=True
torch.serialization.add_safe_globals([Cyclic, LRBounds, OneCycle, Sweep])
