"""Networks of real kinds at full size, on a GPU: ``python tests/benchmarks/full_size.py FOLDER``, about six minutes.

FOLDER holds CIFAR-10's own ``cifar-10-batches-py``; the text is Python's standard library. A ResNet-9 and a vision
transformer on mirrored and shifted images, and a character model, of some millions of weights, in bfloat16, 490 or 500
steps. 1cycle between the bounds of a default ``LRRangeTest()`` is held against 1cycle on a grid of factor 2, and
against the packages of ``rivals.py``, which train as long as ours and its test together. One seed of data and weights
for the grid and the rivals, three for the tests and the trainings after them.
"""

import contextlib
import functools
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import real
import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from real import Block, characters, resnet9
from rivals import COSINE, make_schedule_free
from runs import set_lr
from tasks import Data, adamw, next_character, sgd
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

from lightning_clr import CLRMixin, LRBounds, OneCycle, RangeTestResult, lr_range_test

Rival = Callable[[Any, float, int], torch.optim.Optimizer]


@dataclass(frozen=True, kw_only=True)
class FullSize:
    """A task.

    Attributes:
        name: In the table.
        data: Training inputs and targets, test inputs and targets, on the host.
        model: Makes a freshly initialised model.
        optimizer: Makes an optimizer from parameters.
        centre: ``log2`` of the learning rate around which the grid lies.
    """

    name: str
    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    centre: int
    batch_size: int
    steps: int
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    accuracy: bool = True
    clip: float | None = None


def vision_transformer(width: int = 256, depth: int = 6) -> nn.Module:
    """5 million weights."""
    patches = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.Flatten(2))
    return Transformer(patches, 64, width, depth, 10, causal=False)


def character_model(width: int = 256, depth: int = 6) -> nn.Module:
    """5 million weights."""
    return Transformer(nn.Embedding(128, width), 256, width, depth, 128, causal=True)


class Transformer(nn.Module):
    """Blocks of ``real.py`` between an embedding and a head."""

    def __init__(self, embed: nn.Module, length: int, width: int, depth: int, classes: int, causal: bool) -> None:
        super().__init__()
        self.embed, self.places = embed, nn.Parameter(0.02 * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*[Block(width, width // 64, causal) for _ in range(depth)])
        self.norm, self.head, self.causal = nn.LayerNorm(width), nn.Linear(width, classes), causal

    def forward(self, x: Tensor) -> Tensor:
        embedded = self.embed(x) if self.causal else self.embed(x).transpose(1, 2)
        features = self.norm(self.blocks(embedded + self.places[:, : embedded.shape[1]]))
        return self.head(features if self.causal else features.mean(1))


@functools.cache
def images() -> Data:
    """All of CIFAR-10."""
    return *real.images("train", None), *real.images("test", None)


def augmented(x: Tensor) -> Tensor:
    """Images mirrored half of the time, and all of a batch shifted alike by up to four pixels; text as it is."""
    if not x.is_floating_point():
        return x
    x = torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)
    down, right = torch.randint(9, (2,)).tolist()
    return F.pad(x, (4, 4, 4, 4))[:, :, down : down + 32, right : right + 32]


def unfused_adamw(parameters: Any) -> torch.optim.Optimizer:
    """Lightning does not clip for fused ones."""
    return torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.1)


TASKS = (
    FullSize(
        name="resnet9, width 64, SGD",
        data=images,
        model=functools.partial(resnet9, 64),
        optimizer=sgd(0.9, nesterov=True, weight_decay=5e-4),
        centre=-5,
        batch_size=512,
        steps=490,
    ),
    FullSize(
        name="vit, 5 million, AdamW",
        data=images,
        model=vision_transformer,
        optimizer=adamw(weight_decay=0.05),
        centre=-10,
        batch_size=512,
        steps=490,
    ),
    FullSize(
        name="character model, 5 million, AdamW",
        data=functools.partial(characters, 256, None),
        model=character_model,
        optimizer=unfused_adamw,
        centre=-9,
        batch_size=64,
        steps=500,
        loss=next_character,
        accuracy=False,
        clip=1.0,
    ),
)


class Module(CLRMixin, LightningModule):
    """A task as a LightningModule with 1cycle."""

    def __init__(self, task: FullSize, make: Callable[[Any], torch.optim.Optimizer] | None = None) -> None:
        super().__init__()
        self.task, self.make = task, make or task.optimizer
        self.network = task.model().to(memory_format=torch.channels_last)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.task.loss(self.network(augmented(batch[0])), batch[1])

    def configure_optimizers(self) -> Any:
        return self.with_schedule(self.make(self.parameters()))


class Whole(TensorDataset):
    """Hands out a batch by one look-up, on the device where the data lie."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return self[indices]


class Bench:
    """Trainings of one task."""

    def __init__(self, task: FullSize, device: torch.device) -> None:
        self.task, self.device = task, device
        self.data = [tensor.to(device) for tensor in task.data()]

    def loader(self) -> DataLoader[Any]:
        train = Whole(*self.data[:2])
        return DataLoader(train, self.task.batch_size, shuffle=True, drop_last=True, collate_fn=list)  # type: ignore[arg-type]

    def range_test(self, seed: int) -> RangeTestResult:
        """The default one, in a real Trainer."""
        seed_everything(seed, verbose=False)
        trainer = Trainer(
            accelerator=self.device.type,
            precision="bf16-mixed",
            max_steps=self.task.steps,
            gradient_clip_val=self.task.clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        return lr_range_test(trainer, Module(self.task), self.loader())

    def train(self, seed: int, bounds: LRBounds) -> float:
        """Score of 1cycle; ``-inf`` if it diverges."""
        schedule, steps = OneCycle(), self.task.steps

        def setting(step: int) -> tuple[float, float | None]:
            return schedule.lr(step, steps, bounds), schedule.momentum(step, steps)

        return self._run(seed, steps, self.task.optimizer, setting)

    def rival(self, name: str, steps: int) -> float:
        """Score of an optimizer that needs no learning rate."""
        decay = self.task.optimizer([nn.Parameter(torch.zeros(1))]).param_groups[0]["weight_decay"]

        def cosine(step: int) -> tuple[float, float | None]:
            return (1 + math.cos(math.pi * step / steps)) / 2, None

        def make(parameters: Any) -> torch.optim.Optimizer:
            return COSINE[name](parameters, decay) if name in COSINE else make_schedule_free(parameters, decay, steps)

        return self._run(0, steps, make, cosine if name in COSINE else None)

    def untrained(self) -> float:
        return self._run(0, 0, self.task.optimizer, None)

    def _run(
        self,
        seed: int,
        steps: int,
        make: Callable[[Any], torch.optim.Optimizer],
        setting: Callable[[int], tuple[float, float | None]] | None,
    ) -> float:
        seed_everything(seed, verbose=False)
        module = Module(self.task, make).to(self.device)
        optimizer, batches, losses = make(module.parameters()), self._batches(), []
        frees_itself = hasattr(optimizer, "train")
        if frees_itself:
            optimizer.train()
        for step in range(steps):
            if setting is not None:
                set_lr(optimizer, *setting(step))
            with self._bfloat16():
                loss = module.training_step(next(batches), step)
            optimizer.zero_grad()
            loss.backward()
            if self.task.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), self.task.clip)
            optimizer.step()
            losses.append(loss.detach())
        if frees_itself:
            optimizer.eval()
        if losses and not torch.stack(losses).isfinite().all():
            return -math.inf
        return self._score(module.network.eval())

    def _batches(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader()

    def _score(self, network: nn.Module) -> float:
        x, y = self.data[2:]
        with torch.no_grad(), self._bfloat16():
            parts = [
                (self.task.loss(out := network(some), right).float() * len(some), (out.argmax(-1) == right).sum())
                for some, right in zip(x.split(500), y.split(500), strict=True)
            ]
        losses, hits = (sum(part).item() / len(x) for part in zip(*parts, strict=True))
        score = hits if self.task.accuracy else -losses
        return score if math.isfinite(score) else -math.inf

    def _bfloat16(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16)


def measure(task: FullSize, device: torch.device, seeds: int) -> dict[str, Any]:
    """Grid, found bounds, and rivals."""
    bench = Bench(task, device)
    started = time.perf_counter()
    found: dict[str, Any] = {"task": task.name, "untrained": bench.untrained(), "grid": {}}

    def score(octave: int) -> float:
        if octave not in found["grid"]:
            found["grid"][octave] = bench.train(0, LRBounds(2.0**octave / 25, 2.0**octave))
        return found["grid"][octave]

    best = task.centre
    while True:  # until the best lies two octaves inside
        around = range(best - 2, best + 3)
        best, before = max(around, key=score), best
        if best == before:
            break
    found["seconds of the grid"] = time.perf_counter() - started
    found["tests"] = []
    for seed in range(seeds):
        started = time.perf_counter()
        result = bench.range_test(seed)
        test = {"seconds": time.perf_counter() - started, "steps": result.num_steps, "summary": result.summary()}
        if result.bounds is not None:
            test |= {"max_lr": result.bounds.max_lr, "score": bench.train(seed, result.bounds)}
        found["tests"].append(test)
    longer = task.steps + round(statistics.fmean(test["steps"] for test in found["tests"]))
    found["rivals"] = {name: bench.rival(name, longer) for name in (*COSINE, "schedule-free AdamW")}
    return found


def main() -> None:
    arguments = real.parser(__doc__)
    arguments.add_argument("--device", default="cuda")
    arguments.add_argument("--output", type=Path, default=Path("full_size.json"), help="where the numbers go")
    options = arguments.parse_args()
    real.FOLDER = options.folder / real.FOLDER
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    results = []
    for task in TASKS:
        if options.tasks and task.name not in options.tasks:
            continue
        with contextlib.redirect_stdout(sys.stderr):
            results.append(measure(task, torch.device(options.device), options.seeds))
        options.output.write_text(json.dumps(results, indent=1))
        sys.stdout.write(json.dumps(results[-1]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
