"""On a GPU: a training after a range test is, bit for bit, the training without one."""

from functools import partial

import pytest
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard

from lightning_clr import LRRangeTest
from support.data import loader
from support.exactness import Case
from support.models import Scheduled
from support.scenarios import Scenarios, check_bit_identical
from support.training import quiet_trainer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),  # of drivers and of strategies
]

SCENARIOS = Scenarios()


class Images(Scheduled):
    """Convolution, batch normalization and dropout, on eight numbers as on an image of two by four."""

    def __init__(self):
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.body = torch.nn.Linear(64, 16)

    def forward(self, x):
        features = torch.relu(self.norm(self.convolution(x.view(-1, 1, 2, 4))))
        return self.head(torch.nn.functional.dropout(self.body(features.flatten(1)), 0.2, self.training))


class Optimized(Images):
    """With the optimizer that it is given."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def configure_optimizers(self):
        return self.with_schedule(self.make(self.parameters()))


class Sharded(Optimized):
    """FSDP 2."""

    def configure_model(self):
        fully_shard(self, mesh=self.device_mesh["data_parallel"])


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
ADAM = partial(torch.optim.Adam, lr=0.01)
FUSED = partial(torch.optim.AdamW, lr=0.01, fused=True)


def capturable(parameters):
    return torch.optim.Adam(parameters, lr=torch.tensor(0.01, device="cuda"), capturable=True)


@pytest.fixture(autouse=True)
def _process_group_ends():
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def add(name, make, precision="32-true", module=Optimized, arguments=None, data=None, **trainer):
    def case():
        return Case(
            module=partial(module, make),
            train=data or partial(loader, 160, shuffle=True),
            trainer={"accelerator": "gpu", "precision": precision, "deterministic": True, **trainer},
            test=arguments or {},
        )

    case.__name__ = name
    SCENARIOS.add(case)


def compiled(make):
    module = Optimized(make)
    module.convolution = torch.compile(module.convolution)
    return module


add("float32", SGD)
add("pinned workers", SGD, data=partial(loader, 160, shuffle=True, num_workers=2, pin_memory=True))
add("bf16, fused", FUSED, "bf16-mixed")
add("bf16, copies on the host", FUSED, "bf16-mixed", arguments={"snapshot_device": "cpu"})
add("fp16", SGD, "16-mixed")
add("fp16, clipped", ADAM, "16-mixed", gradient_clip_val=1.0)
add("fp16, fused, accumulated", FUSED, "16-mixed", accumulate_grad_batches=2)
add("capturable", capturable)
add("bf16 alone", FUSED, "bf16-true")
add("fp16 alone", SGD, "16-true")
add("DDP, bf16", FUSED, "bf16-mixed", strategy="ddp")
add("DDP, fp16, fused", FUSED, "16-mixed", strategy="ddp")
add("FSDP, bf16", ADAM, "bf16-mixed", strategy=FSDPStrategy)
add("FSDP, fp16", ADAM, "16-mixed", strategy=FSDPStrategy)
add("FSDP 2", ADAM, module=Sharded, strategy=ModelParallelStrategy)
add("compiled, bf16", SGD, "bf16-mixed", module=compiled)


@SCENARIOS.in_each_ending
def test_training_is_bit_identical(make, ending, tmp_path, monkeypatch):
    if make.__name__.startswith("FSDP, ") and isinstance(ending.get("fault"), type):
        pytest.skip("the first FSDP cannot go on after a step that fails halfway")
    check_bit_identical(make, ending, tmp_path, monkeypatch)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_default_test_finds_bounds_that_train(precision):
    """By short runs, whose losses are finite in each precision."""
    test, module = LRRangeTest(), Optimized(FUSED)
    trainer = quiet_trainer(accelerator="gpu", max_steps=240, precision=precision, callbacks=[test])
    trainer.fit(module, loader(480, shuffle=True), loader(64))

    assert len([run for run in test.result.runs if run.max_lr]) >= 3
    assert test.result.bounds is not None
    assert float(trainer.validate(module, loader(64), verbose=False)[0]["val_acc"]) > 0.75
