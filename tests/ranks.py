"""Run by every rank of test_distributed.py: trains untested and tested, and writes down both traces.

Usage: python ranks.py STRATEGY DEVICES FOLDER
"""

import json
import os
import sys
import warnings
from pathlib import Path

import exactness
import torch
from exactness import AfterTrial, Case, WithoutTrial, run
from models import Scheduled, loader, quiet_trainer
from pytorch_lightning import seed_everything
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from lightning_clr import LRRangeTest


class Dropout(Scheduled):
    """Random numbers and running statistics that differ from rank to rank."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(16)

    def forward(self, x):
        return self.head(torch.nn.functional.dropout(self.norm(self.body(x)), 0.2, self.training))


class Adam(Dropout):
    def configure_optimizers(self):
        return self.with_schedule(torch.optim.Adam(self.parameters(), lr=0.01))


class Sharded(Scheduled):
    """Tensor parallel, data parallel (FSDP2), or both, as the device mesh has it."""

    def configure_model(self):
        if isinstance(self.body.weight, DTensor):
            return
        tensor, data = self.device_mesh["tensor_parallel"], self.device_mesh["data_parallel"]
        if tensor.size() > 1:
            parallelize_module(self, tensor, {"body": ColwiseParallel(), "head": RowwiseParallel()})
        if data.size() > 1:
            for layer in (self.body, self.head, self):
                fully_shard(layer, mesh=data)

    def configure_optimizers(self):
        return self.with_schedule(torch.optim.Adam(self.parameters(), lr=0.01))


class FSDPOnCPU(FSDPStrategy):
    """FSDP needs a GPU only to be told its device."""

    def _setup_model(self, model):
        self.kwargs["device_id"] = torch.device("cpu")
        return super()._setup_model(model)


def model_parallel(data: int, tensor: int) -> ModelParallelStrategy:
    return ModelParallelStrategy(data, tensor, process_group_backend="gloo")


STRATEGIES = {
    "ddp": lambda: ("ddp", Dropout),
    "unused parameters": lambda: ("ddp_find_unused_parameters_true", Adam),
    "static graph": lambda: (DDPStrategy(static_graph=True, gradient_as_bucket_view=True), Adam),
    "data parallel shards": lambda: (model_parallel(2, 1), Sharded),
    "tensor parallel": lambda: (model_parallel(1, 2), Sharded),
    "2-D parallel": lambda: (model_parallel(2, 2), Sharded),
}


class NaNOnRankOne(Scheduled):
    """Diverges on one rank alone."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        hot = self.optimizers().param_groups[0]["lr"] > 0.1
        return loss * float("nan") if hot and self.global_rank == 1 else loss


class RaisesOnRankOne(Scheduled):
    """Fails on one rank alone, in the middle of the trial."""

    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and self.global_step == 6:
            raise RuntimeError("the real error")
        return super().training_step(batch, batch_idx)


@exactness.plain.register
def _(value: DTensor):
    return exactness.plain(value.to_local())


def trace(name: str, devices: int, test: LRRangeTest) -> list:
    strategy, module = STRATEGIES[name]()
    trainer = {"strategy": strategy, "devices": devices}
    return run(Case(module=module, train=lambda: loader(163, shuffle=True), trainer=trainer), test)


def found_where_one_rank_sees_nan(devices: int) -> list:
    """What the range test finds, and the learning rate in force afterwards."""
    seed_everything(5)
    test = LRRangeTest(min_lr=1e-4, max_lr=10.0, num_steps=40, stop_factor=None)
    trainer = quiet_trainer(strategy="ddp", devices=devices, max_epochs=1, callbacks=[test])
    trainer.fit(NaNOnRankOne(), loader(160, shuffle=True))
    return [test.result.state_dict(), trainer.optimizers[0].param_groups[0]["lr"]]


class Noisy(Scheduled):
    """Its loss is drowned by noise, another on each rank, that training does not see."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + 3 * torch.randn(())


def found_at_a_closer_look(devices: int) -> dict:
    """What the range test finds where it sweeps twice."""
    seed_everything(5)
    test = LRRangeTest(num_steps=40)
    trainer = quiet_trainer(strategy="ddp", devices=devices, max_steps=2, callbacks=[test])
    trainer.fit(Noisy(), loader(160, shuffle=True))
    return test.result.state_dict()


def main(name, devices, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if name == "one rank raises":
        trainer = quiet_trainer(strategy="ddp", devices=int(devices), max_epochs=1, callbacks=[LRRangeTest()])
        trainer.fit(RaisesOnRankOne(), loader(160))
    sweep = {"min_lr": 1e-4, "max_lr": 1.0, "num_steps": 14, "stop_factor": None}
    found = {"untested": trace(name, int(devices), WithoutTrial(**sweep))}
    test = AfterTrial(**sweep)
    found |= {"tested": trace(name, int(devices), test), "steps": test.ran}
    if name == "ddp":
        found["nan"] = found_where_one_rank_sees_nan(int(devices))
        found["closer"] = found_at_a_closer_look(int(devices))
    Path(folder, f"{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
