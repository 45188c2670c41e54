"""Small tasks on real data that ships with scikit-learn and Python, for judging what a range test suggests."""

import functools
import importlib
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Data = tuple[Tensor, Tensor, Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained, on what, how, and by which number it is judged.

    Attributes:
        name: Name in tables and in the cache.
        split: Rules are chosen on ``"dev"`` tasks, ``"val"`` tasks were looked at once, ``"test"`` tasks at the end.
        data: Training inputs and targets, validation inputs and targets.
        model: Makes a freshly initialised model.
        optimizer: Makes an optimizer from parameters; its learning rate is set at every step.
        loss: Training loss of predictions and targets.
        accuracy: Whether the score is the validation accuracy; otherwise the negative validation loss.
        batch_size: Samples per step; the last, smaller batch of an epoch is left out.
        steps: Length of a training run in optimizer steps.
        clip: Largest norm of the gradient.
    """

    name: str
    split: Literal["dev", "val", "test"]
    data: Callable[[], Data]
    model: Callable[[], nn.Module]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    loss: Loss = F.cross_entropy
    accuracy: bool = True
    batch_size: int = 32
    steps: int = 300
    clip: float | None = None

    def start(self, seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Iterator[tuple[Tensor, Tensor]]]:
        """Model, optimizer and endless shuffled batches of one run."""
        torch.manual_seed(seed)
        model = self.model()
        return model, self.optimizer(model.parameters()), self._batches(seed)

    def train_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> float:
        """One optimizer step; returns the loss before it."""
        optimizer.zero_grad()
        loss = self.loss(model(batch[0]), batch[1])
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.clip)
        optimizer.step()
        return loss.item()

    def scores(self, model: nn.Module) -> tuple[float, float]:
        """Validation accuracy (NaN for regressions) and negative validation loss: higher is better."""
        _, _, x, y = self.data()
        model.eval()
        with torch.no_grad():
            prediction = model(x)
            loss = self.loss(prediction, y).item()
            hits = (prediction.argmax(-1) == y).float().mean().item() if self.accuracy else math.nan
        model.train()
        return hits, -loss

    def _batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        x, y, _, _ = self.data()
        generator = torch.Generator().manual_seed(seed + 1000)
        while True:
            order = torch.randperm(len(x), generator=generator)
            for first in range(0, len(x) - self.batch_size + 1, self.batch_size):
                index = order[first : first + self.batch_size]
                yield x[index], y[index]


def sgd(momentum: float = 0.0, **kwargs: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=momentum, fused=True, **kwargs)


def adam(**kwargs: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, fused=True, **kwargs)


def adamw(**kwargs: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.AdamW(parameters, fused=True, **kwargs)


def rmsprop(**kwargs: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.RMSprop(parameters, **kwargs)


@functools.cache
def digits(
    *, noise: float = 0.0, classes: tuple[int, ...] = tuple(range(10)), flip: bool = False, copy: bool = False
) -> Data:
    """Digits as ``[n, 64]``; with noisy training labels, some classes only, upside down, or as their own target."""
    bunch = datasets.load_digits()
    x = torch.tensor(bunch.data, dtype=torch.float32) / 16 - 0.3
    y = torch.tensor(bunch.target)
    keep = torch.isin(y, torch.tensor(classes))
    x, y = x[keep], y[keep]
    if flip:
        x = x.flip(1)
    if copy:
        return _split(x, x)
    x_train, y_train, x_val, y_val = _split(x, y)
    generator = torch.Generator().manual_seed(7)
    wrong = torch.rand(len(y_train), generator=generator) < noise
    random = torch.randint(10, (len(y_train),), generator=generator)
    return x_train, torch.where(wrong, random, y_train), x_val, y_val


@functools.cache
def table(name: str, *, scale_target: bool = True) -> Data:
    """A table of scikit-learn with standardised columns; targets of regressions are ``[n, 1]``."""
    bunch = getattr(datasets, f"load_{name}")()
    x = torch.tensor(bunch.data, dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    if name != "diabetes":
        return _split(x, torch.tensor(bunch.target))
    y = torch.tensor(bunch.target, dtype=torch.float32)[:, None]
    return _split(x, (y - y.mean()) / y.std() if scale_target else y)


@functools.cache
def text(modules: tuple[str, ...], context: int) -> Data:
    """Characters of the documentation inside Python's own modules, ``[n, context]``, and the characters after them."""
    pieces = []
    for name in modules:
        module = importlib.import_module(name)
        members = [module, *(getattr(module, member) for member in sorted(dir(module)))]
        pieces += [member.__doc__ for member in members if isinstance(member.__doc__, str)]
    characters = [character for character in "\n".join(pieces) if character in _ALPHABET]
    codes = torch.tensor([_ALPHABET.index(character) for character in characters])
    codes = codes[: (len(codes) - 1) // context * context + 1]
    return _split(codes[:-1].view(-1, context), codes[1:].view(-1, context), most_val=100)


_ALPHABET = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;'\"()[]{}<>=+-*/_`|&%#!?"


def _split(x: Tensor, y: Tensor, most_val: int = 400) -> Data:
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    val, train = order[: min(most_val, len(x) // 3)], order[min(most_val, len(x) // 3) :]
    return x[train], y[train], x[val], y[val]


def mlp(*sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes with an activation between them, nothing else."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def _relu_dropout(rate: float) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Dropout(rate))


def cnn(width: int = 12, *, norm: bool = False) -> nn.Sequential:
    def norms(channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(channels)] if norm else []

    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, width, 3, padding=1),
        *norms(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        *norms(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


class ResNet(nn.Module):
    """Residual blocks with BatchNorm on 8x8 images."""

    def __init__(self, width: int = 12, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, width, 3, padding=1, stride=2), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.blocks = nn.ModuleList(_block(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(x.mean((2, 3)))


def _block(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
    )


class RowLSTM(nn.Module):
    """Reads a digit row by row."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, width, batch_first=True)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 8, 8))[0][:, -1])


class GPT(nn.Module):
    """Predicts the next character at every place."""

    def __init__(self, width: int = 32, heads: int = 2, depth: int = 2, context: int = 32) -> None:
        super().__init__()
        self.token = nn.Embedding(len(_ALPHABET), width)
        self.place = nn.Parameter(0.02 * torch.randn(context, width))
        self.blocks = nn.ModuleList(_GPTBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(_ALPHABET))

    def forward(self, codes: Tensor) -> Tensor:
        x = self.token(codes) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class _GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*qkv, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


def next_character(logits: Tensor, codes: Tensor) -> Tensor:
    """Cross entropy over all places of the text."""
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


@functools.cache
def _pretrained(name: str) -> dict[str, Tensor]:
    x, y, _, _ = _EARLIER_DATA[name]()
    model = _fresh(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(5)
    for _ in range(1500 if name == "gpt" else 300):
        index = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[index]).flatten(0, -2), y[index].flatten()).backward()
        optimizer.step()
    return {key: value.clone() for key, value in model.state_dict().items()}


_EARLIER_DATA: dict[str, Callable[[], Data]] = {
    "cnn": digits,
    "mlp": functools.partial(digits, classes=(0, 1, 2, 3, 4)),
    "gpt": functools.partial(text, ("argparse", "logging", "collections", "string", "subprocess"), 32),
}


def _fresh(name: str) -> nn.Module:
    return {"cnn": cnn, "mlp": functools.partial(mlp, 64, 96, 64, 10), "gpt": GPT}[name]()


def finetuned(name: str, *, new_head: bool = False) -> nn.Module:
    """A model trained before on other digits, or on other text."""
    model, fresh = _fresh(name), _fresh(name)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        state = _pretrained(name)
    model.load_state_dict(state)
    if new_head:
        model[-1].load_state_dict(fresh[-1].state_dict())
    return model


_mse = F.mse_loss
_dev = functools.partial(Task, split="dev")
_val = functools.partial(Task, split="val")
_test = functools.partial(Task, split="test")
_digits = functools.partial(functools.partial, digits)
_table = functools.partial(functools.partial, table)
_model = functools.partial

TASKS: tuple[Task, ...] = (
    _dev(name="digits mlp, momentum", data=digits, model=_model(mlp, 64, 64, 10), optimizer=sgd(0.9)),
    _dev(name="digits cnn, adam", data=digits, model=cnn, optimizer=adam(), batch_size=64),
    _dev(
        name="digits resnet, momentum, decay",
        data=digits,
        model=ResNet,
        optimizer=sgd(0.9, weight_decay=5e-4),
    ),
    _dev(name="digits lstm, adam", data=digits, model=RowLSTM, optimizer=adam()),
    _dev(
        name="digits autoencoder, adam",
        data=_digits(copy=True),
        model=_model(mlp, 64, 48, 12, 48, 64),
        optimizer=adam(),
        loss=_mse,
        accuracy=False,
    ),
    _dev(
        name="digits deep tanh mlp, momentum",
        data=digits,
        model=_model(mlp, 64, *[48] * 8, 10, activation=nn.Tanh),
        optimizer=sgd(0.9),
        steps=500,
    ),
    _dev(
        name="digits deep relu mlp, momentum",
        data=digits,
        model=_model(mlp, 64, *[64] * 6, 10),
        optimizer=sgd(0.9),
        steps=500,
    ),
    _dev(
        name="diabetes mlp, rmsprop",
        data=_table("diabetes"),
        model=_model(mlp, 10, 32, 1),
        optimizer=rmsprop(),
        loss=_mse,
        accuracy=False,
        batch_size=16,
    ),
    _dev(
        name="cancer logistic, sgd",
        data=_table("breast_cancer"),
        model=_model(mlp, 30, 2),
        optimizer=sgd(),
        batch_size=16,
    ),
    _dev(name="wine mlp, adamw", data=_table("wine"), model=_model(mlp, 13, 24, 3), optimizer=adamw(), batch_size=8),
    _dev(
        name="gpt, adamw",
        data=_model(text, ("argparse", "logging", "collections", "string", "subprocess"), 32),
        model=GPT,
        optimizer=adamw(weight_decay=0.1),
        loss=next_character,
        accuracy=False,
        batch_size=16,
    ),
    _dev(
        name="digits mlp, label noise, momentum",
        data=_digits(noise=0.4),
        model=_model(mlp, 64, 64, 10),
        optimizer=sgd(0.9),
        batch_size=16,
    ),
    _dev(
        name="digits mlp, batch 4, sgd",
        data=digits,
        model=_model(mlp, 64, 64, 10),
        optimizer=sgd(),
        batch_size=4,
        steps=600,
    ),
    _dev(name="digits cnn, clip 0.1, sgd", data=digits, model=cnn, optimizer=sgd(), clip=0.1),
    _dev(
        name="finetuned cnn, adam",
        data=_digits(flip=True),
        model=_model(finetuned, "cnn"),
        optimizer=adam(),
    ),
    _dev(name="digits mlp, rmsprop", data=digits, model=_model(mlp, 64, 64, 10), optimizer=rmsprop(), batch_size=16),
    _dev(name="digits cnn, momentum", data=digits, model=cnn, optimizer=sgd(0.9), batch_size=16),
    _dev(name="digits resnet, adamw", data=digits, model=ResNet, optimizer=adamw(), batch_size=64),
    _dev(name="digits lstm, momentum, clip 1", data=digits, model=RowLSTM, optimizer=sgd(0.9), clip=1.0, steps=500),
    _dev(
        name="digits autoencoder, momentum",
        data=_digits(copy=True),
        model=_model(mlp, 64, 32, 64),
        optimizer=sgd(0.9),
        loss=_mse,
        accuracy=False,
        steps=500,
    ),
    _dev(name="digits deep mlp, adam", data=digits, model=_model(mlp, 64, *[40] * 9, 10), optimizer=adam(), steps=400),
    _dev(
        name="digits deep relu mlp, decay, momentum",
        data=digits,
        model=_model(mlp, 64, *[96] * 5, 10),
        optimizer=sgd(0.9, weight_decay=1e-4),
        batch_size=16,
        steps=500,
    ),
    _dev(
        name="diabetes linear, sgd",
        data=_table("diabetes"),
        model=_model(mlp, 10, 1),
        optimizer=sgd(),
        loss=_mse,
        accuracy=False,
        batch_size=32,
    ),
    _dev(name="cancer mlp, adam", data=_table("breast_cancer"), model=_model(mlp, 30, 32, 2), optimizer=adam()),
    _dev(
        name="wine logistic, momentum", data=_table("wine"), model=_model(mlp, 13, 3), optimizer=sgd(0.9), batch_size=16
    ),
    _dev(
        name="gpt, adam, batch 8",
        data=_model(text, ("random", "threading", "typing", "os", "email.message"), 32),
        model=_model(GPT, 32, 4, 1),
        optimizer=adam(betas=(0.9, 0.99)),
        loss=next_character,
        accuracy=False,
        batch_size=8,
    ),
    _dev(
        name="digits cnn, label noise, adam",
        data=_digits(noise=0.3),
        model=cnn,
        optimizer=adam(),
        batch_size=16,
    ),
    _dev(
        name="digits cnn, batch 4, adamw", data=digits, model=_model(cnn, 8), optimizer=adamw(), batch_size=4, steps=500
    ),
    _dev(
        name="digits mlp, clip 0.05, momentum",
        data=digits,
        model=_model(mlp, 64, 64, 10),
        optimizer=sgd(0.9),
        clip=0.05,
    ),
    _dev(
        name="finetuned mlp, momentum",
        data=digits,
        model=_model(finetuned, "mlp", new_head=True),
        optimizer=sgd(0.9, weight_decay=1e-3),
    ),
    _val(name="digits wide mlp, adamw", data=digits, model=_model(mlp, 64, 128, 10), optimizer=adamw(), batch_size=64),
    _val(name="digits cnn norm, sgd", data=digits, model=_model(cnn, 8, norm=True), optimizer=sgd(), batch_size=16),
    _val(name="digits lstm, rmsprop", data=digits, model=_model(RowLSTM, 24), optimizer=rmsprop(), batch_size=16),
    _val(
        name="digits autoencoder, adamw",
        data=_digits(copy=True),
        model=_model(mlp, 64, 32, 16, 32, 64, activation=nn.GELU),
        optimizer=adamw(),
        loss=_mse,
        accuracy=False,
        batch_size=64,
    ),
    _val(
        name="digits deep elu mlp, momentum",
        data=digits,
        model=_model(mlp, 64, *[48] * 8, 10, activation=nn.ELU),
        optimizer=sgd(0.9),
        steps=500,
    ),
    _val(
        name="digits deep gelu mlp, adam",
        data=digits,
        model=_model(mlp, 64, *[64] * 7, 10, activation=nn.GELU),
        optimizer=adam(),
        steps=400,
    ),
    _val(
        name="diabetes mlp, adam",
        data=_table("diabetes"),
        model=_model(mlp, 10, 24, 1),
        optimizer=adam(),
        loss=_mse,
        accuracy=False,
        batch_size=8,
    ),
    _val(
        name="cancer logistic, momentum, decay",
        data=_table("breast_cancer"),
        model=_model(mlp, 30, 2),
        optimizer=sgd(0.9, weight_decay=1e-2),
        batch_size=8,
    ),
    _val(
        name="wine mlp, sgd, batch 4", data=_table("wine"), model=_model(mlp, 13, 16, 3), optimizer=sgd(), batch_size=4
    ),
    _val(
        name="gpt, momentum",
        data=_model(text, ("json", "csv", "datetime", "decimal", "unittest.mock"), 32),
        model=_model(GPT, 24, 2, 1),
        optimizer=sgd(0.9),
        loss=next_character,
        accuracy=False,
        batch_size=16,
        clip=1.0,
    ),
    _val(
        name="digits mlp, label noise, adam, batch 4",
        data=_digits(noise=0.2),
        model=_model(mlp, 64, 48, 10),
        optimizer=adam(),
        batch_size=4,
        steps=500,
    ),
    _val(name="digits mlp, clip 0.2, sgd", data=digits, model=_model(mlp, 64, 64, 10), optimizer=sgd(), clip=0.2),
    _val(
        name="finetuned cnn, new head, adamw",
        data=_digits(flip=True),
        model=_model(finetuned, "cnn", new_head=True),
        optimizer=adamw(weight_decay=0.1),
    ),
    _val(
        name="digits mlp, dropout, adamw",
        data=digits,
        model=_model(mlp, 64, 96, 10, activation=_model(_relu_dropout, 0.3)),
        optimizer=adamw(),
        batch_size=16,
    ),
    _val(
        name="digits resnet, nesterov",
        data=digits,
        model=_model(ResNet, 8, 3),
        optimizer=sgd(0.9, nesterov=True),
        batch_size=16,
    ),
    _val(name="digits resnet, adam, batch 8", data=digits, model=_model(ResNet, 10, 1), optimizer=adam(), batch_size=8),
    _val(name="digits lstm, adamw, clip 1", data=digits, model=RowLSTM, optimizer=adamw(), clip=1.0, batch_size=16),
    _val(name="digits lstm, sgd, clip 0.5", data=digits, model=RowLSTM, optimizer=sgd(), clip=0.5, steps=500),
    _val(
        name="digits autoencoder, rmsprop",
        data=_digits(copy=True),
        model=_model(mlp, 64, 40, 20, 40, 64),
        optimizer=rmsprop(),
        loss=_mse,
        accuracy=False,
    ),
    _val(
        name="digits deep relu mlp, nesterov",
        data=digits,
        model=_model(mlp, 64, *[56] * 5, 10),
        optimizer=sgd(0.9, nesterov=True),
        batch_size=64,
        steps=600,
    ),
    _val(
        name="digits deep tanh mlp, adamw",
        data=digits,
        model=_model(mlp, 64, *[40] * 8, 10, activation=nn.Tanh),
        optimizer=adamw(),
        steps=400,
    ),
    _val(
        name="diabetes mlp, raw target, adamw",
        data=_table("diabetes", scale_target=False),
        model=_model(mlp, 10, 32, 1),
        optimizer=adamw(),
        loss=_mse,
        accuracy=False,
        batch_size=32,
        steps=500,
    ),
    _val(
        name="diabetes mlp, momentum",
        data=_table("diabetes"),
        model=_model(mlp, 10, 48, 1),
        optimizer=sgd(0.9),
        loss=_mse,
        accuracy=False,
        batch_size=16,
    ),
    _val(
        name="cancer mlp, rmsprop, batch 4",
        data=_table("breast_cancer"),
        model=_model(mlp, 30, 24, 2),
        optimizer=rmsprop(),
        batch_size=4,
    ),
    _val(
        name="cancer logistic, adamw",
        data=_table("breast_cancer"),
        model=_model(mlp, 30, 2),
        optimizer=adamw(),
        batch_size=64,
    ),
    _val(
        name="wine mlp, momentum", data=_table("wine"), model=_model(mlp, 13, 20, 3), optimizer=sgd(0.9), batch_size=8
    ),
    _val(
        name="gpt, adamw, batch 32",
        data=_model(text, ("pathlib", "shutil", "tempfile", "socket", "ssl"), 24),
        model=_model(GPT, 40, 2, 2, 24),
        optimizer=adamw(weight_decay=0.01),
        loss=next_character,
        accuracy=False,
        batch_size=32,
    ),
    _val(
        name="digits cnn, label noise, momentum, batch 8",
        data=_digits(noise=0.4),
        model=cnn,
        optimizer=sgd(0.9),
        batch_size=8,
        steps=400,
    ),
    _val(name="digits cnn, clip 0.05, adam", data=digits, model=cnn, optimizer=adam(), clip=0.05),
    _val(
        name="finetuned cnn, momentum, decay",
        data=_digits(flip=True),
        model=_model(finetuned, "cnn"),
        optimizer=sgd(0.9, weight_decay=5e-4),
        batch_size=16,
    ),
    _val(
        name="finetuned gpt, adamw",
        data=_model(text, ("random", "threading", "typing", "os", "email.message"), 32),
        model=_model(finetuned, "gpt"),
        optimizer=adamw(weight_decay=0.01),
        loss=next_character,
        accuracy=False,
        batch_size=16,
    ),
    _test(name="digits wide cnn, adamw", data=digits, model=_model(cnn, 20), optimizer=adamw(), batch_size=32),
    _test(
        name="digits mlp, decay, momentum, batch 8",
        data=digits,
        model=_model(mlp, 64, 80, 40, 10),
        optimizer=sgd(0.9, weight_decay=1e-3),
        batch_size=8,
    ),
    _test(name="digits resnet, sgd", data=digits, model=_model(ResNet, 12, 2), optimizer=sgd(), batch_size=32),
    _test(name="digits lstm, adam, batch 64", data=digits, model=_model(RowLSTM, 40), optimizer=adam(), batch_size=64),
    _test(
        name="digits autoencoder, momentum, batch 64",
        data=_digits(copy=True),
        model=_model(mlp, 64, 24, 64, activation=nn.Tanh),
        optimizer=sgd(0.9),
        loss=_mse,
        accuracy=False,
        batch_size=64,
        steps=500,
    ),
    _test(
        name="digits deep relu mlp, batch 16, momentum",
        data=digits,
        model=_model(mlp, 64, *[72] * 5, 10),
        optimizer=sgd(0.9),
        batch_size=16,
        steps=600,
    ),
    _test(
        name="digits deep mlp, rmsprop",
        data=digits,
        model=_model(mlp, 64, *[48] * 6, 10),
        optimizer=rmsprop(),
        steps=400,
    ),
    _test(
        name="diabetes linear, adamw",
        data=_table("diabetes"),
        model=_model(mlp, 10, 1),
        optimizer=adamw(),
        loss=_mse,
        accuracy=False,
        batch_size=16,
    ),
    _test(
        name="cancer logistic, rmsprop",
        data=_table("breast_cancer"),
        model=_model(mlp, 30, 2),
        optimizer=rmsprop(),
        batch_size=32,
    ),
    _test(
        name="wine mlp, rmsprop", data=_table("wine"), model=_model(mlp, 13, 32, 3), optimizer=rmsprop(), batch_size=16
    ),
    _test(
        name="gpt, adam, batch 4",
        data=_model(text, ("ast", "enum", "inspect", "asyncio", "smtplib"), 32),
        model=_model(GPT, 32, 2, 1),
        optimizer=adam(),
        loss=next_character,
        accuracy=False,
        batch_size=4,
    ),
    _test(
        name="digits mlp, clip 0.1, adam",
        data=digits,
        model=_model(mlp, 64, 64, 10),
        optimizer=adam(),
        clip=0.1,
        batch_size=16,
    ),
)
