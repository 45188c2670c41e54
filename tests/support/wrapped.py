"""Run by every rank: trains under DDP with what users register on the wrapper, untested and tested.

Usage: python wrapped.py FOLDER
"""

import json
import os
import sys
import warnings
import weakref
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook

from support.data import loader
from support.exactness import SWEEP, AfterTrial, Case, MishapError, WithoutTrial, run
from support.models import Plain
from support.processes import end_here


class Deep(Plain):
    """Enough weights to be compressed, and to lie in several small buckets."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))

    def on_fit_start(self):
        self.register(self.trainer.strategy.model)

    def register(self, wrapper):
        pass

    def on_train_end(self):
        Path(f"{self.global_rank}.json").write_text(json.dumps(self.noted()))

    def noted(self):
        return []


class PowerSGD(Deep):
    def register(self, wrapper):
        self.state = [PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=0.5)]
        wrapper.register_comm_hook(self.state[0], powerSGD_hook)

    def noted(self):
        (state,) = self.state
        errors = [error.tolist() for error in state.error_dict.values()]
        return [state.iter, errors, state.rng.get_state()[2], state.total_numel_before_compression]


class LocalSGD(Deep):
    def register(self, wrapper):
        self.state = [PostLocalSGDState(None, dist.new_group([self.global_rank]), start_localSGD_iter=5)]
        wrapper.register_comm_hook(self.state[0], post_localSGD_hook)

    def noted(self):
        return [self.state[0].iter]


class Compressed(Deep):
    def register(self, wrapper):
        wrapper.register_comm_hook(None, fp16_compress_hook)


class CompressedInCPlusPlus(Deep):
    def register(self, wrapper):
        wrapper._register_builtin_comm_hook(dist.BuiltinCommHookType.FP16_COMPRESS)


class Counter:
    """A hook of the user's own that keeps what it has rounded away."""

    def __init__(self):
        self.calls, self.forwards, self.errors = 0, 0, {}

    def reduce(self, _, bucket):
        self.calls += 1
        gradient = bucket.buffer()
        wanted = gradient + self.errors.get((bucket.index(), len(gradient)), 0)
        sent = (wanted / dist.get_world_size()).half().float()
        self.errors[bucket.index(), len(gradient)] = wanted - sent * dist.get_world_size()
        return dist.all_reduce(sent, async_op=True).get_future().then(lambda sums: sums.value()[0])

    def count(self, module, args):
        self.forwards += 1


class Own(Deep):
    def register(self, wrapper):
        self.counter = Counter()
        wrapper.register_comm_hook(None, self.counter.reduce)
        wrapper.register_forward_pre_hook(self.counter.count)
        wrapper.note, self.held = "mine", weakref.ref(wrapper)

    def training_step(self, batch, batch_idx):
        assert self.trainer.strategy.model is self.held()
        assert self.held().note == "mine"
        return super().training_step(batch, batch_idx)

    def noted(self):
        return [self.counter.calls, self.counter.forwards]


class OwnGroup(DDPStrategy):
    def setup_environment(self):
        super().setup_environment()
        self._ddp_kwargs["process_group"] = dist.new_group(range(self.world_size))


SMALL = {"bucket_cap_mb": 0.001}
CASES = {
    "PowerSGD": (PowerSGD, DDPStrategy),
    "local SGD": (LocalSGD, DDPStrategy),
    "compressed": (Compressed, partial(DDPStrategy, **SMALL)),
    "compressed in C++": (CompressedInCPlusPlus, partial(DDPStrategy, **SMALL)),
    "own": (Own, partial(DDPStrategy, **SMALL)),
    "own, static graph": (Own, partial(DDPStrategy, static_graph=True)),
    "own, in a group": (Own, partial(OwnGroup, gradient_as_bucket_view=True)),
    "an error on all": (Deep, partial(DDPStrategy, **SMALL)),
}


def main(folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rank, found = os.environ.get("LOCAL_RANK", 0), {}
    for name, (module, strategy) in CASES.items():
        found[name] = []
        fault = MishapError if name == "an error on all" else None
        for test in (WithoutTrial(**SWEEP), type("AfterTrial", (AfterTrial,), {"fault": fault})(**SWEEP)):
            trainer = {"devices": int(os.environ["DEVICES"]), "strategy": strategy(), "max_epochs": 1}
            trace = run(Case(module=module, train=lambda: loader(163, shuffle=True), trainer=trainer), test)
            noted = json.loads(Path(f"{rank}.json").read_text())
            found[name].append([trace[:-1], noted, getattr(test, "ran", 0)])
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    end_here()


if __name__ == "__main__":
    main(*sys.argv[1:])
