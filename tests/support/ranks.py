"""Run by every rank of a test: makes the experiments that are named, and writes down what each has found.

Usage: python ranks.py "EXPERIMENT, EXPERIMENT" DEVICES FOLDER
"""

import collections
import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, seed_everything
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader
from torchmetrics.classification import BinaryAccuracy

import lightning_clr.trial.loop
import lightning_clr.trial.snapshot
from lightning_clr import LRRangeTest
from lightning_clr.trial.snapshot import Snapshot
from support import exactness
from support.data import loader
from support.exactness import SWEEP, AfterTrial, Case, WithoutTrial, Witness, run
from support.models import Noisy, Scheduled
from support.processes import end_here
from support.training import quiet_trainer


class Dropout(Scheduled):
    """Random numbers and running statistics that differ from rank to rank."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(16)

    def forward(self, x):
        return self.head(torch.nn.functional.dropout(self.norm(self.body(x)), 0.2, self.training))


class WithAdam(Scheduled):
    def configure_optimizers(self):
        return self.with_schedule(torch.optim.Adam(self.parameters(), lr=0.01))


class Adam(WithAdam, Dropout):
    """Both."""


class Sharded(WithAdam):
    """Tensor parallel, data parallel (FSDP2), or both, as the device mesh has it."""

    def configure_model(self):
        if isinstance(self.body.weight, DTensor):
            return
        tensor, data = self.device_mesh["tensor_parallel"], self.device_mesh["data_parallel"]
        if tensor.size() > 1:
            parallelize_module(self, tensor, {"body": ColwiseParallel(), "head": RowwiseParallel()})
        if data.size() > 1 or tensor.size() == 1:
            for layer in (self.body, self.head, self):
                fully_shard(layer, mesh=data)


class ShardedAsOne(WithAdam):
    """FSDP2 of the whole alone, which stays gathered after the sanity check."""

    def configure_model(self):
        fully_shard(self, mesh=self.device_mesh["data_parallel"])


class UsedNowAndThen(WithAdam):
    """Two groups, one with a layer that few steps use; evenly divided, since DeepSpeed leaves padding uninitialized."""

    def __init__(self):
        super().__init__()
        self.head, self.extra = torch.nn.Linear(16, 4), torch.nn.Linear(8, 4)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + self.extra(batch[0]).square().mean() if batch_idx % 4 == 3 else loss

    def configure_optimizers(self):
        groups = [
            {"params": [*self.body.parameters(), *self.extra.parameters()], "lr": 0.002},
            {"params": self.head.parameters()},
        ]
        return self.with_schedule(torch.optim.Adam(groups, lr=0.01))


class FSDPOnCPU(FSDPStrategy):
    """FSDP needs a GPU only to be told its device."""

    def _setup_model(self, model):
        return super()._setup_model(FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs))


class DeepSpeedOnCPU(DeepSpeedStrategy):
    """DeepSpeed needs a GPU only for its index."""

    root_device = torch.device("cpu", 0)

    def setup_environment(self):
        DDPStrategy.setup_environment(self)

    def setup_distributed(self):
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def model_parallel(data: int, tensor: int, **arguments) -> ModelParallelStrategy:
    return ModelParallelStrategy(data, tensor, process_group_backend="gloo", **arguments)


def fsdp(**arguments) -> FSDPStrategy:
    return FSDPOnCPU(auto_wrap_policy={torch.nn.Linear}, process_group_backend="gloo", **arguments)


def zero(stage: int, **arguments) -> DeepSpeedStrategy:
    os.environ["DS_ACCELERATOR"] = "cpu"
    from deepspeed.runtime.base_optimizer import ZeROOptimizer

    @exactness.plain.register
    def _(value: ZeROOptimizer):
        """Without what counts or addresses parameters."""
        known = {k: part for k, part in vars(value).items() if not isinstance(part, dict) and not k.endswith("_id")}
        return exactness.plain({**known, "loss scale": value.loss_scaler.cur_scale})

    return DeepSpeedOnCPU(stage=stage, process_group_backend="gloo", **arguments)


STRATEGIES = {
    "ddp": lambda: (Dropout, {"strategy": "ddp"}),
    "bucket views": lambda: (Dropout, {"strategy": DDPStrategy(gradient_as_bucket_view=True)}),
    "unused parameters": lambda: (
        Adam,
        {"strategy": "ddp_find_unused_parameters_true", "accumulate_grad_batches": 4},
    ),
    "static graph": lambda: (Adam, {"strategy": DDPStrategy(static_graph=True, gradient_as_bucket_view=True)}),
    "static graph without views": lambda: (Adam, {"strategy": DDPStrategy(static_graph=True)}),
    "data parallel shards": lambda: (Sharded, {"strategy": model_parallel(2, 1)}),
    "data parallel shards of one layer": lambda: (ShardedAsOne, {"strategy": model_parallel(2, 1)}),
    "tensor parallel": lambda: (Sharded, {"strategy": model_parallel(1, 2)}),
    "2-D parallel": lambda: (Sharded, {"strategy": model_parallel(2, 2), "accumulate_grad_batches": 2}),
    "full shards": lambda: (WithAdam, {"strategy": fsdp()}),
    "full shards of one layer": lambda: (WithAdam, {"strategy": FSDPOnCPU(process_group_backend="gloo")}),
    "ZeRO 1": lambda: (UsedNowAndThen, {"strategy": zero(1), "accumulate_grad_batches": 3}),
    "ZeRO 2": lambda: (UsedNowAndThen, {"strategy": zero(2), "gradient_clip_val": 0.5}),
    "ZeRO 3": lambda: (UsedNowAndThen, {"strategy": zero(3), "accumulate_grad_batches": 3}),
    "ZeRO 3 in bfloat16": lambda: (UsedNowAndThen, {"strategy": zero(3), "precision": "bf16-mixed"}),
    "full shards on GPUs": lambda: (WithAdam, {"strategy": "fsdp", "accelerator": "gpu"}),
}


class Tested(AfterTrial):
    """Also notes how many steps training made, and how many the schedule was told."""

    def on_train_end(self, trainer, pl_module):
        self.lengths = [trainer.global_step, pl_module.lr_schedulers().total_steps]


def traces(name: str, devices: int) -> dict:
    """Training untested and tested."""
    test, found = Tested(**SWEEP), {}
    for label, callback in (("untested", WithoutTrial(**SWEEP)), ("tested", test)):
        module, trainer = STRATEGIES[name]()
        trainer = {"devices": devices, **trainer}
        found[label] = run(Case(module=module, train=lambda: loader(163, shuffle=True), trainer=trainer), callback)
    return {**found, "steps": test.ran, "found": test.found[0].state_dict(), "lengths": test.lengths}


class WritesDown(Witness):
    """Leaves its trace in a file, since nothing comes back from a spawned process."""

    def on_train_end(self, trainer, pl_module):
        super().on_train_end(trainer, pl_module)
        test = trainer.callbacks[0]
        steps, found = (test.ran, test.found[0].state_dict()) if isinstance(test, AfterTrial) else (0, None)
        path = f"{type(test).__name__} {trainer.global_rank}.json"
        Path(path).write_text(json.dumps({"trace": self.trace, "steps": steps, "found": found}))


def spawned(devices: int) -> list:
    """What each spawned process has written, untested and tested."""
    for test in (WithoutTrial(**SWEEP), AfterTrial(**SWEEP)):
        seed_everything(7)
        trainer = quiet_trainer(strategy="ddp_spawn", devices=devices, max_epochs=2, callbacks=[test, WritesDown()])
        trainer.fit(Dropout(), loader(163, shuffle=True), loader(32))
    names = ("WithoutTrial", "AfterTrial")
    return [[json.loads(Path(f"{name} {rank}.json").read_text()) for name in names] for rank in range(devices)]


class NaNOnRankOne(Scheduled):
    """Diverges on one rank alone, and refuses the weights that this makes on all."""

    batches = 0

    def training_step(self, batch, batch_idx):
        type(self).batches += 1
        if self.head.weight.isnan().any():
            raise ValueError("the weights are NaN")
        loss = super().training_step(batch, batch_idx)
        hot = self.optimizers().param_groups[0]["lr"] > 0.1
        return loss * float("nan") if hot and self.global_rank == 1 else loss


class RaisesOnRankOne(Scheduled):
    """Fails on one rank alone, in the middle of the trial."""

    def training_step(self, batch, batch_idx):
        if self.global_rank == 1 and self.global_step == 6:
            raise RuntimeError("the real error")
        return super().training_step(batch, batch_idx)


class RaisesAtTheEndOnRankOne(Scheduled):
    """Fails on one rank alone, in the step after the third hot one, with which the sweep has diverged on all."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        heat = self.optimizers().param_groups[0]["lr"] / 0.1
        if self.global_rank == 1 and heat > 1.9:
            raise RuntimeError("the real error")
        return loss + 1e3 * (heat > 1)


def raised(module: type, devices: int) -> None:
    test = LRRangeTest(min_lr=1e-4, max_lr=10.0, num_steps=60)
    trainer = quiet_trainer(strategy="ddp", devices=devices, max_epochs=1, callbacks=[test])
    trainer.fit(module(), loader(160))


def found_where_one_rank_sees_nan(devices: int) -> list:
    """What the range test finds, the number of its steps, and the learning rate in force afterwards."""
    seed_everything(5)
    test = LRRangeTest(min_lr=1e-4, max_lr=10.0, num_steps=40, stop_factor=None)
    trainer = quiet_trainer(strategy="ddp", devices=devices, max_epochs=1, callbacks=[test])
    trainer.fit(NaNOnRankOne(), loader(160, shuffle=True))
    steps = NaNOnRankOne.batches - trainer.global_step
    return [test.result.state_dict(), steps, trainer.optimizers[0].param_groups[0]["lr"]]


class NoisyOnEachRank(Scheduled, Noisy):
    """With other noise on each."""

    noise = 3.0


def found_at_a_closer_look(devices: int) -> dict:
    """What the range test finds where it sweeps twice."""
    seed_everything(5)
    test = LRRangeTest(num_steps=40, budget=400)
    trainer = quiet_trainer(strategy="ddp", devices=devices, max_steps=2, callbacks=[test])
    trainer.fit(NoisyOnEachRank(), loader(160, shuffle=True))
    return test.result.state_dict()


class Mean(LightningModule):
    """Its loss is the mean of its batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return batch.mean() + self.weight.sum() * 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class ReturnsNoneOnRankOne(Mean):
    """Every other step returns nothing there, but is made."""

    automatic_optimization = False
    batches = 0

    def training_step(self, batch, batch_idx):
        type(self).batches += 1
        loss, optimizer = super().training_step(batch, batch_idx), self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return None if self.global_rank == 1 and batch_idx % 2 else loss


def recorded_where_one_rank_returns_none(devices: int) -> tuple[list[float], int]:
    """What is recorded, and the number of batches that were run, two of them in training."""
    return recorded_of_uneven_batches(devices, ReturnsNoneOnRankOne), ReturnsNoneOnRankOne.batches


def recorded_of_uneven_batches(devices: int, module: type = Mean) -> list[float]:
    """Batches of sixteen ones on rank 0, of two fours on rank 1."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    data = DataLoader(torch.full((160,), [1.0, 4.0][rank]), batch_size=[16, 2][rank])
    test = LRRangeTest(num_steps=20, max_lr=1.0, closer_look=False)
    trainer = quiet_trainer(
        strategy="ddp", devices=devices, max_steps=2, callbacks=[test], use_distributed_sampler=False
    )
    trainer.fit(module(), data)
    return test.result.values


class Scored(Mean):
    """Right for every one in its batches, and wrong for every zero, as a torchmetrics object has it."""

    def __init__(self, call: bool, **how):
        super().__init__()
        self.acc, self.val_acc = BinaryAccuracy(), BinaryAccuracy()
        self.call, self.how = call, how

    def training_step(self, batch, batch_idx):
        (self.acc if self.call else self.acc.update)(batch, torch.ones_like(batch).int())
        self.log("acc", self.acc, **self.how)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.val_acc(batch, torch.ones_like(batch).int())
        self.log("val_acc", self.val_acc)


def recorded_by_torchmetrics(devices: int) -> dict:
    """Batches of sixteen ones on rank 0, of two zeros on rank 1, called and updated, in training and in validation."""
    rank, found = int(os.environ.get("LOCAL_RANK", 0)), {}
    data = DataLoader(torch.full(([320, 40][rank],), [1.0, 0.0][rank]), batch_size=[16, 2][rank])
    for name, monitor, module in (
        ("called", "acc", Scored(True)),
        ("per step and epoch", "acc", Scored(True, on_step=True, on_epoch=True)),
        ("updated", "acc", Scored(False, on_step=False, on_epoch=True)),
        ("validation", "val_acc", Scored(True)),
    ):
        test = LRRangeTest(num_steps=20, monitor=monitor, monitor_mode="max", val_every_n_steps=2, closer_look=False)
        trainer = quiet_trainer(
            strategy="ddp", devices=devices, max_steps=2, callbacks=[test], use_distributed_sampler=False,
            num_sanity_val_steps=0, limit_val_batches=2, logger=CSVLogger("logs", name, rank),
        )  # fmt: skip
        trainer.fit(module, data, data)
        found[name] = sorted({round(value, 6) for value in test.result.values})
    return {**found, "files": sorted(map(str, Path("logs").rglob("lr_range_test.csv")))}


class Profiled(LRRangeTest):
    """Notes the collectives of a sweep, or of training."""

    def run(self, trainer, pl_module):
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as self.profile:
            return super().run(trainer, pl_module)


def collectives(steps: int, devices: int, swept: bool) -> collections.Counter:
    """Name and shape of all that goes between the ranks in a sweep, or in training, of so many steps."""
    test = Profiled(**{**SWEEP, "num_steps": steps}, closer_look=False)
    strategy = {"strategy": "ddp", "devices": devices}
    trainer = quiet_trainer(**strategy, max_steps=2 if swept else steps, callbacks=[test] if swept else [])
    if swept:
        trainer.fit(Scheduled(), loader(160))
    else:
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as test.profile:
            trainer.fit(Scheduled(), loader(160))
    events = [event for event in test.profile.events() if event.name.startswith("gloo:")]
    return collections.Counter(f"{event.name} {event.input_shapes}" for event in events)


def more_collectives_than_in_training(devices: int) -> dict:
    """What ten steps of a sweep send beyond what ten steps of training send, and the other way round."""
    swept = collectives(20, devices, True) - collectives(10, devices, True)
    trained = collectives(20, devices, False) - collectives(10, devices, False)
    return {"more": swept - trained, "less": trained - swept}


HELD: list[int] = []


class Weighed(Snapshot):
    """Counts the bytes of the tensors that it holds."""

    def __exit__(self, *error):
        copies = [
            undo.args[1]
            for undo in self._undo
            if getattr(undo, "func", None) is lightning_clr.trial.snapshot.put_back_tensor
        ]
        HELD.append(sum(copy.nbytes for copy in copies if copy is not None))
        super().__exit__(*error)


def bytes_held(devices: int) -> list[int]:
    """By a snapshot before the first step: of sharded weights, twice, and of replicated ones, with Adam; no data."""
    lightning_clr.trial.snapshot._DATA_BYTES = 0
    lightning_clr.trial.loop.Snapshot = Weighed
    for module, strategy in ((Sharded, model_parallel(devices, 1)), (WithAdam, fsdp()), (WithAdam, "ddp")):
        test = LRRangeTest(**{**SWEEP, "search": None})
        trainer = quiet_trainer(strategy=strategy, devices=devices, max_steps=2, callbacks=[test])
        trainer.fit(module(), loader(128))
    lightning_clr.trial.loop.Snapshot = Snapshot
    return HELD


def whole(value):
    """All shards of a tensor."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach()


class OneEpoch(Callback):
    """Ends training after an epoch and saves it; notes learning rates, and what was restored and saved."""

    def __init__(self, path: Path):
        self.path, self.lrs, self.noted = path, {}, []

    def on_train_start(self, trainer, pl_module):
        self.note(trainer, pl_module)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.lrs[trainer.global_step] = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True

    def on_train_end(self, trainer, pl_module):
        self.note(trainer, pl_module)
        trainer.save_checkpoint(self.path)

    def note(self, trainer, pl_module):
        (optimizer,), model = trainer.optimizers, trainer.strategy.model
        if isinstance(model, FullyShardedDataParallel):
            with model.summon_full_params(model, writeback=False):
                weights, moments = [whole(weight).clone() for weight in pl_module.parameters()], None
        else:
            weights = [whole(weight) for weight in pl_module.parameters()]
            moments = [whole(state["exp_avg"]) for state in optimizer.state.values()]
        self.noted.append(exactness.digest([weights, moments, pl_module.lr_bounds.max_lr]))


CHECKPOINTS = {
    "replicated": lambda devices: (WithAdam, "ddp"),
    "sharded": lambda devices: (Sharded, model_parallel(devices, 1, save_distributed_checkpoint=True)),
    "full shards in shards": lambda devices: (WithAdam, fsdp(state_dict_type="sharded")),
    "consolidated": lambda devices: (Sharded, model_parallel(devices, 1, save_distributed_checkpoint=False)),
}
EARLIER = {2: None, 1: 2, 4: 1}
"""The number of ranks before: two start, one goes on, then four."""


def one_epoch_of_eight(kind: str, devices: int) -> dict:
    """Go on from the checkpoint of another number of ranks, for an epoch of 128 samples."""
    seed_everything(3)
    module, strategy = CHECKPOINTS[kind](devices)
    folder = Path.cwd().parent.parent
    epoch, test = OneEpoch(folder / f"{kind} {devices}"), LRRangeTest(num_steps=40, closer_look=False)
    trainer = quiet_trainer(strategy=strategy, devices=devices, max_epochs=8, callbacks=[test, epoch])
    earlier = EARLIER[devices] and folder / f"{kind} {EARLIER[devices]}"
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer.fit(module(), loader(128, batch_size=8), ckpt_path=earlier)
    return {
        "lrs": list(epoch.lrs.items()),
        "restored": epoch.noted[0],
        "saved": epoch.noted[1],
        "found": test.result.state_dict(),
        "told": [str(warning.message) for warning in told if "made for" in str(warning.message)],
        "is a folder": epoch.path.is_dir(),
    }


EXPERIMENTS = {
    **{name: partial(traces, name) for name in STRATEGIES},
    **{name: partial(one_epoch_of_eight, name) for name in CHECKPOINTS},
    "spawned": spawned,
    "one rank raises": partial(raised, RaisesOnRankOne),
    "one rank raises at the end": partial(raised, RaisesAtTheEndOnRankOne),
    "one rank sees nan": found_where_one_rank_sees_nan,
    "closer look": found_at_a_closer_look,
    "one rank returns none": recorded_where_one_rank_returns_none,
    "uneven batches": recorded_of_uneven_batches,
    "torchmetrics": recorded_by_torchmetrics,
    "collectives": more_collectives_than_in_training,
    "bytes": bytes_held,
}


def main(names, devices, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {name: EXPERIMENTS[name](int(devices)) for name in names.split(", ")}
    Path(folder, f"{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(found))
    end_here()


if __name__ == "__main__":
    main(*sys.argv[1:])
