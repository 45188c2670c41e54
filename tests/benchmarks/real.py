"""Networks of real kinds, on CIFAR-10 and on text: ``python tests/benchmarks/real.py FOLDER [--tasks "plain cnn"]``.

FOLDER holds CIFAR-10's own ``cifar-10-batches-py``; the text is Python's standard library. Each bound of a default
``LRRangeTest()`` is judged as in ``bounds.py``, against a grid of factor 2 around the best ``max_lr``, one seed. The
scores of the grid are kept in ``truth_real.json``; what is missing there is made anew (a minute or two a score).
"""

import argparse
import functools
import json
import math
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from finders import range_test
from runs import train
from tasks import Data, Task, adamw, next_character, sgd
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from lightning_clr import LRBounds, OneCycle

TRUTH = Path(__file__).with_name("truth_real.json")
FOLDER = Path("cifar-10-batches-py")


def images(split: str, number: int | None) -> tuple[Tensor, Tensor]:
    """Images of CIFAR-10, those for training in an order of their own, ``[n, 3, 32, 32]`` in about -2 to 2."""
    names = [f"data_batch_{number}" for number in range(1, 6)] if split == "train" else ["test_batch"]
    batches = [pickle.loads((FOLDER / name).read_bytes(), encoding="bytes") for name in names]
    x = np.concatenate([batch[b"data"] for batch in batches])
    y = np.concatenate([batch[b"labels"] for batch in batches])
    keep = np.random.RandomState(0).permutation(len(x)) if split == "train" else np.arange(len(x))
    keep = keep[:number]
    scaled = (torch.tensor(x[keep]).float() / 255 - 0.47) / 0.25
    return scaled.view(-1, 3, 32, 32), torch.tensor(y[keep]).long()


@functools.cache
def cifar() -> Data:
    return *images("train", 10_000), *images("test", 2_000)


@functools.cache
def characters(length: int = 64, modules: int | None = 100) -> Data:
    """Text of the first modules of the standard library in rows, and the characters after them."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))[:modules]
    text = "".join(module.read_text(errors="ignore") for module in files)
    codes = torch.tensor([ord(character) for character in text if ord(character) < 128])
    rows = codes[: len(codes) // (length + 1) * (length + 1)].view(-1, length + 1)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    return rows[1000:, :-1], rows[1000:, 1:], rows[:1000, :-1], rows[:1000, 1:]


def conv(inputs: int, outputs: int, norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=norm is not nn.BatchNorm2d)
    return nn.Sequential(layer, *([norm(outputs)] if norm else []), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def resnet9(width: int = 16) -> nn.Sequential:
    w = width
    return nn.Sequential(
        *(conv(3, w), conv(w, 2 * w), nn.MaxPool2d(2)),
        Residual(nn.Sequential(conv(2 * w, 2 * w), conv(2 * w, 2 * w))),
        *(conv(2 * w, 4 * w), nn.MaxPool2d(2), conv(4 * w, 8 * w), nn.MaxPool2d(2)),
        Residual(nn.Sequential(conv(8 * w, 8 * w), conv(8 * w, 8 * w))),
        *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8 * w, 10)),
    )


def plain_cnn() -> nn.Sequential:
    """No normalization."""
    body = [conv(3, 32, None), nn.MaxPool2d(2), conv(32, 64, None), nn.MaxPool2d(2), conv(64, 64, None)]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*body, *head)


def group_cnn() -> nn.Sequential:
    """GroupNorm and SiLU."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.SiLU()]

    pool = nn.MaxPool2d(2)
    body = [*block(3, 24), pool, *block(24, 48), pool, *block(48, 64), pool, *block(64, 64)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Block(nn.Module):
    """A transformer block with the norms first."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.heads, self.causal = heads, causal

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 96, depth: int = 4) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, width, 4, 4), nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.blocks = nn.Sequential(*[Block(width, 3, False) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.patches(images).flatten(2).transpose(1, 2) + self.places)).mean(1))


class CharacterModel(nn.Module):
    def __init__(self, width: int = 128, depth: int = 4, length: int = 64) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(128, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, 4, True) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 128)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.characters(rows) + self.places.weight[: rows.shape[1]])))


_real = functools.partial(Task, data=cifar, batch_size=64, steps=400)
_momentum = sgd(0.9, weight_decay=5e-4)

REAL_TASKS: tuple[Task, ...] = (
    _real(name="plain cnn", split="dev", model=plain_cnn, optimizer=_momentum),
    _real(name="resnet9", split="dev", model=resnet9, optimizer=sgd(0.9, nesterov=True, weight_decay=5e-4)),
    _real(name="group norm cnn", split="test", model=group_cnn, optimizer=_momentum),
    _real(name="vit", split="test", model=VisionTransformer, optimizer=adamw(weight_decay=0.05)),
    _real(
        name="character model",
        split="test",
        data=characters,
        model=CharacterModel,
        optimizer=adamw(betas=(0.9, 0.95), weight_decay=0.1),
        loss=next_character,
        accuracy=False,
        batch_size=32,
        clip=1.0,
    ),
)
CENTRES = {"plain cnn": -4, "resnet9": -6, "group norm cnn": -4, "vit": -9, "character model": -7}
"""Powers of two around which the grid lies."""
REACH = 3


class RealTruth:
    """Scores of one seed on a grid of factor 2, three octaves up and down."""

    def __init__(self, task: Task) -> None:
        file = json.loads(TRUTH.read_text()) if TRUTH.exists() else {}
        known = file.setdefault(task.name, {"untrained": _score(task, task.start(0)[0]), "scores": {}})
        for octave in range(CENTRES[task.name] - REACH, CENTRES[task.name] + REACH + 1):
            if str(octave) not in known["scores"]:
                score = train(task, 0, OneCycle(), LRBounds(2.0**octave / 25, 2.0**octave))
                known["scores"][str(octave)] = score if math.isfinite(score) else None
                TRUTH.write_text(json.dumps(file, indent=1))
        self.untrained = known["untrained"]
        scores = {int(octave): known["untrained"] if s is None else s for octave, s in known["scores"].items()}
        self.octaves = sorted(scores)
        self.scores = [max(scores[octave], self.untrained) for octave in self.octaves]

    def regret(self, lr: float | None) -> float:
        """What is lost by this learning rate, of the improvement that the best brings; all of it if there is none."""
        if lr is None:
            return 1.0
        score = float(np.interp(math.log2(lr), self.octaves, self.scores))
        return (max(self.scores) - score) / (max(self.scores) - self.untrained)


def _score(task: Task, model: nn.Module) -> float:
    accuracy, negative_loss = task.scores(model)
    return accuracy if task.accuracy else negative_loss


def main() -> None:
    global FOLDER
    arguments = parser(__doc__)
    arguments.add_argument("--threads", type=int, default=1)
    options = arguments.parse_args()
    FOLDER = options.folder / FOLDER
    torch.set_num_threads(options.threads)
    sys.stdout.write("| task | split | best max_lr | found | regret | steps |\n|---|---|---|---|---|---|\n")
    for task in REAL_TASKS:
        if options.tasks and task.name not in options.tasks:
            continue
        truth = RealTruth(task)
        best = 2.0 ** truth.octaves[int(np.argmax(truth.scores))]
        results = [range_test(task, seed) for seed in range(options.seeds)]
        found = [result.bounds.max_lr if result.bounds else None for result in results]
        steps = [result.num_steps for result in results]
        cells = (
            *(task.name, task.split, f"{best:.2g}"),
            ", ".join("none" if lr is None else f"{lr:.2g}" for lr in found),
            ", ".join(f"{truth.regret(lr):.3f}" for lr in found),
            f"{sum(steps) / len(steps):.0f}",
        )
        sys.stdout.write("| " + " | ".join(cells) + " |\n")
        sys.stdout.flush()


def parser(description: str | None) -> argparse.ArgumentParser:
    """Of what is measured on CIFAR-10."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path, help="where cifar-10-batches-py is")
    parser.add_argument("--tasks", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, default=3, help="range tests a task")
    return parser


if __name__ == "__main__":
    main()
