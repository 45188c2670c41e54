"""What is refused, with which words: what was expected, what came, what to do."""

import math
from operator import attrgetter

import pytest
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch.utils.data import DataLoader

from lightning_clr import Cyclic, LRBounds, LRRangeTest, OneCycle, ScheduleLR, Sweep, lr_range_test
from support.data import Stream, blobs, loader
from support.models import Flat, Plain, Scheduled
from support.training import quiet_trainer


def bounds(base_lr=0.1, max_lr=1.0):
    return lambda: LRBounds(base_lr, max_lr)


def one_cycle(**arguments):
    return lambda: OneCycle(**arguments)


def cyclic(**arguments):
    return lambda: Cyclic(**arguments)


def range_test(**arguments):
    return lambda: LRRangeTest(**arguments)


def schedule_lr(schedule=None, total_steps=10, lr=0.1, **arguments):
    """A scheduler for one parameter at the given learning rate."""

    def build():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        return ScheduleLR(optimizer, OneCycle() if schedule is None else schedule, total_steps, **arguments)

    return build


REFUSED = {
    "bounds: wrong order": (bounds(1.0, 0.1), ValueError, r"`base_lr` .* `max_lr` \(0\.1\), got 1\.0\. Swap"),
    "bounds: zero": (bounds(0.0), ValueError, r"`base_lr` .* positive, finite learning rate, got 0\.0\. Try"),
    "bounds: negative": (bounds(-0.1), ValueError, r"`base_lr` .* positive, finite .* got -0\.1\. Try"),
    "bounds: NaN": (bounds(0.1, math.nan), ValueError, r"`max_lr` .* positive, finite .* got nan\. Try"),
    "bounds: infinite": (bounds(0.1, math.inf), ValueError, r"`max_lr` .* positive, finite .* got inf\. Try"),
    "bounds: a word": (bounds("0.1"), TypeError, r"`base_lr` .* positive, finite .* got '0\.1'\. Try"),
    "bounds: None": (bounds(None), TypeError, r"`base_lr` .* positive, finite .* got None\. Try"),
    "1cycle: pct_start above 1": (one_cycle(pct_start=1.5), ValueError, r"`pct_start` must lie in \[0, 1\], got 1\.5"),
    "1cycle: pct_start negative": (one_cycle(pct_start=-0.1), ValueError, r"`pct_start` must lie in .* got -0\.1"),
    "1cycle: pct_start NaN": (one_cycle(pct_start=math.nan), ValueError, r"`pct_start` must lie in .* got nan"),
    "1cycle: pct_start a word": (one_cycle(pct_start="0.3"), TypeError, r"`pct_start` must lie in .* got '0\.3'"),
    "1cycle: no room for three phases": (
        one_cycle(pct_start=0.6, three_phase=True),
        ValueError,
        r"`pct_start` must be at most 0\.5 .* got 0\.6\. Choose a smaller",
    ),
    "1cycle: no room for Smith's": (
        one_cycle(pct_start=0.6, anneal="smith"),
        ValueError,
        r"`pct_start` must be at most 0\.5 .* got 0\.6\. Choose a smaller",
    ),
    "1cycle: Smith's has no third phase": (
        one_cycle(anneal="smith", three_phase=True),
        ValueError,
        r'`anneal` must be "cos" or "linear" with three phases, got \'smith\'',
    ),
    "1cycle: unknown anneal": (
        one_cycle(anneal="cosine"),
        ValueError,
        r'`anneal` must be "cos", "linear" or "smith", got \'cosine\'',
    ),
    "1cycle: div_factor below 1": (one_cycle(div_factor=0.5), ValueError, r"`div_factor` .* at least 1, got 0\.5"),
    "1cycle: div_factor infinite": (one_cycle(div_factor=math.inf), ValueError, r"`div_factor` .* finite .* got inf"),
    "1cycle: final_div_factor below 1": (
        one_cycle(final_div_factor=0),
        ValueError,
        r"`final_div_factor` must be finite and at least 1, got 0",
    ),
    "1cycle: momentum 1": (one_cycle(max_momentum=1.0), ValueError, r"`max_momentum` must lie in \[.*, 1\), got 1\.0"),
    "1cycle: momentum 0": (one_cycle(base_momentum=0), ValueError, r"`base_momentum` must lie in \(0, 1\), got 0"),
    "1cycle: momenta in the wrong order": (
        one_cycle(base_momentum=0.9, max_momentum=0.8),
        ValueError,
        r"`max_momentum` must lie in \[`base_momentum` \(0\.9\), 1\), got 0\.8",
    ),
    "cyclic: step_size 0": (cyclic(step_size=0), ValueError, r"`step_size` must be a whole number .* got 0"),
    "cyclic: step_size fractional": (cyclic(step_size=2.5), ValueError, r"`step_size` .* whole number .* got 2\.5"),
    "cyclic: step_size infinite": (cyclic(step_size=math.inf), ValueError, r"`step_size` .* whole number .* got inf"),
    "cyclic: step_size a word": (cyclic(step_size="10"), TypeError, r"`step_size` .* whole number .* got '10'"),
    "cyclic: cycles 0": (cyclic(cycles=0), ValueError, r"`cycles` must be a whole number of at least 1, got 0"),
    "cyclic: step_size and cycles": (
        cyclic(step_size=5, cycles=2),
        ValueError,
        r"`cycles` must be left out when `step_size` is given, got 2",
    ),
    "cyclic: step_size_down alone": (
        cyclic(step_size_down=5),
        ValueError,
        r"`step_size_down` must come with `step_size`, got 5",
    ),
    "cyclic: gamma 0": (cyclic(gamma=0), ValueError, r"`gamma` must lie in \(0, 1\], got 0"),
    "cyclic: gamma above 1": (cyclic(gamma=1.1), ValueError, r"`gamma` must lie in \(0, 1\], got 1\.1"),
    "cyclic: unknown mode": (
        cyclic(mode="triangular3"),
        ValueError,
        r'"triangular2" or "exp_range", got \'triangular3',
    ),
    "cyclic: unknown scale_mode": (
        cyclic(scale_mode="steps"),
        ValueError,
        r'`scale_mode` must be "cycle" or "iterations", got \'steps\'',
    ),
    "cyclic: scale_fn no function": (cyclic(scale_fn=0.5), ValueError, r"`scale_fn` must be a function .* got 0\.5"),
    "cyclic: unknown decays": (cyclic(decays="lr"), ValueError, r'`decays` must be "amplitude" or "bounds", got \'lr'),
    "sweep: unknown mode": (lambda: Sweep(mode="log"), ValueError, r'`mode` must be .* or "linear", got \'log\''),
    "scheduler: no total_steps": (schedule_lr(total_steps=None), ValueError, r"OneCycle\(.*how long .* `total_steps`"),
    "scheduler: total_steps 0": (schedule_lr(total_steps=0), ValueError, r"`total_steps` .* at least 1 .* got 0"),
    "scheduler: total_steps a word": (schedule_lr(total_steps="10"), TypeError, r"`total_steps` .* 1 .* got '10'"),
    "scheduler: lr 0": (schedule_lr(lr=0.0), ValueError, r"`lr` must be positive in at least one .* got 0\.0"),
    "scheduler: no schedule": (schedule_lr("OneCycle"), TypeError, r"`schedule` must be a Schedule .* got 'OneCycle'"),
    "scheduler: no bounds": (schedule_lr(bounds=(0.1, 1.0)), TypeError, r"`bounds` must be LRBounds.*got \(0\.1, 1"),
    "scheduler: no optimizer": (
        lambda: ScheduleLR(torch.nn.Linear(1, 1), OneCycle(), 10),
        TypeError,
        r"`optimizer` must be a torch Optimizer, got Linear",
    ),
    "mixin: no schedule": (
        lambda: Scheduled(schedule="OneCycle"),
        TypeError,
        r"`schedule` must be a Schedule such as OneCycle\(\), got 'OneCycle'",
    ),
    "mixin: the class, not a schedule": (lambda: Scheduled(schedule=OneCycle), TypeError, r"`schedule` .* got <class"),
    "mixin: no bounds": (
        lambda: Scheduled(lr_bounds=(0.1, 1.0)),
        TypeError,
        r"`lr_bounds` must be LRBounds\(base_lr, max_lr\), got \(0\.1, 1\.0\)",
    ),
    "range test: wrong order": (
        range_test(min_lr=1.0, max_lr=0.1),
        ValueError,
        r"`min_lr` must be below `max_lr` \(0\.1\), got 1\.0\. Swap the two",
    ),
    "range test: no range": (range_test(min_lr=1.0, max_lr=1.0), ValueError, r"`min_lr` .* below .* got 1\.0\. Swap"),
    "range test: min_lr 0": (range_test(min_lr=0), ValueError, r"`min_lr` .* positive, finite .* got 0"),
    "range test: max_lr infinite": (range_test(max_lr=math.inf), ValueError, r"`max_lr` .* finite .* got inf"),
    "range test: max_lr NaN": (range_test(max_lr=math.nan), ValueError, r"`max_lr` .* finite .* got nan"),
    "range test: min_lr a word": (range_test(min_lr="1e-6"), TypeError, r"`min_lr` .* positive, finite .* got '1e-6'"),
    "range test: too few steps": (
        range_test(num_steps=9),
        ValueError,
        r"`num_steps` .* at least 10, got 9\. A hundred",
    ),
    "range test: half a step": (range_test(num_steps=99.5), ValueError, r"`num_steps` .* whole .* got 99\.5\. A hund"),
    "range test: endless": (range_test(num_steps=math.inf), ValueError, r"`num_steps` .* whole .* got inf\. A hundred"),
    "range test: steps in words": (range_test(num_steps="100"), TypeError, r"`num_steps` .* whole .* got '100'\. A"),
    "range test: unknown mode": (range_test(mode="log"), ValueError, r'`mode` must be .* or "linear", got \'log\''),
    "range test: empty monitor": (range_test(monitor=""), ValueError, r"`monitor` .* name of a logged metric, got ''"),
    "range test: monitor a number": (range_test(monitor=5), TypeError, r"`monitor` .* name of a logged metric, got 5"),
    "range test: unknown monitor_mode": (
        range_test(monitor_mode="auto"),
        ValueError,
        r'`monitor_mode` must be "min" or "max", got \'auto\'',
    ),
    "range test: stop_factor 1": (range_test(stop_factor=1), ValueError, r"`stop_factor` .* above 1, got 1\. Use None"),
    "range test: stop_factor NaN": (range_test(stop_factor=math.nan), ValueError, r"`stop_factor` .* got nan\. Use"),
    "range test: validation never": (
        range_test(val_every_n_steps=0),
        ValueError,
        r"`val_every_n_steps` must be a whole number of at least 1, got 0",
    ),
    "range test: unknown on_inconclusive": (
        range_test(on_inconclusive="ignore"),
        ValueError,
        r'`on_inconclusive` must be "warn" or "raise", got \'ignore\'',
    ),
    "function: unknown mode": (
        lambda: lr_range_test(quiet_trainer(), Plain(), loader(), mode="log"),
        ValueError,
        r'`mode` must be .* or "linear", got \'log\'',
    ),
}


@pytest.mark.parametrize(("build", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_argument_is_refused(build, error, message):
    """The message names the argument, the rule and the value that came."""
    with pytest.raises(error, match=message) as raised:
        build()

    assert type(raised.value) is error


class WithOptimizer(Plain):
    """Trains with the optimizer that a function makes."""

    def __init__(self, optimizer=None):
        super().__init__()
        self.optimizer = optimizer

    def configure_optimizers(self):
        return self.optimizer and self.optimizer(self.parameters())


class Rprop(torch.optim.Optimizer):
    """An optimizer without a learning rate."""

    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self, closure=None):
        raise AssertionError("the range test must not get here")


class Manual(Plain):
    """Steps the optimizer itself, and returns nothing."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("my_loss", loss.detach())
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


class ManualWithoutSteps(Manual):
    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class WithoutLoss(Plain):
    def training_step(self, batch, batch_idx):
        return None


class EndsEveryEpoch(Plain):
    def on_train_batch_start(self, batch, batch_idx):
        return -1


def sgd_at_zero(parameters):
    return torch.optim.SGD(parameters, lr=0.0)


def fit(module, val_loader=None, strategy="auto", **arguments):
    """Training that begins with a short range test."""
    test = LRRangeTest(num_steps=20, **arguments)
    quiet_trainer(max_epochs=1, callbacks=[test], strategy=strategy).fit(module, loader(), val_loader)


class DeepSpeedStrategy(SingleDeviceStrategy):
    """Lightning's own needs a GPU to be made, and is known by its name."""


REFUSED_AT_FIT = {
    "monitor never logged": (
        Plain,
        lambda module: fit(module, loader(), monitor="acc"),
        ValueError,
        r"`monitor` must be a metric .* got 'acc'\. Logged were: \['train_loss', 'val_acc'\]",
    ),
    "monitor never logged, no validation data": (
        Plain,
        lambda module: fit(module, monitor="acc"),
        ValueError,
        r"`monitor` must be a metric .* got 'acc'\. Logged were: \['train_loss'\]",
    ),
    "no optimizer": (WithOptimizer, fit, ValueError, r"sweeps the learning rate .* have none\. Return an optimizer"),
    "optimizer without lr": (
        lambda: WithOptimizer(Rprop),
        fit,
        ValueError,
        r"sweeps the learning rate .* \['Rprop'\] have none\. Return an optimizer with `lr`",
    ),
    "lr 0": (lambda: WithOptimizer(sgd_at_zero), fit, ValueError, r"needs a positive `lr` in .* group, got \[0\.0\]"),
    "manual, no loss and no monitor": (
        Manual,
        fit,
        ValueError,
        r"records the loss that `training_step` returns, but it returned none\. .* set `monitor` .* \['my_loss'\]",
    ),
    "manual, no steps": (
        ManualWithoutSteps,
        fit,
        ValueError,
        r"needs optimizer steps, but none was made in 100 batches\. Check that `training_step` steps the optimizer",
    ),
    "no loss": (WithoutLoss, fit, ValueError, r"records the loss .* but it returned none\. Return it, or set `mon"),
    "every epoch ends at once": (
        EndsEveryEpoch,
        fit,
        ValueError,
        r"needs training batches, but .* ended at once, twice\. Check .* `on_train_batch_start`",
    ),
    "no answer": (
        Flat,
        lambda module: fit(module, on_inconclusive="raise"),
        RuntimeError,
        r"no bounds, since the curve is the same at every learning rate: .* \(25 steps, train loss\)",
    ),
    "fast_dev_run": (
        Plain,
        lambda module: lr_range_test(quiet_trainer(max_epochs=1, fast_dev_run=True), module, loader()),
        ValueError,
        r"`lr_range_test` needs real steps, but the trainer is set to `fast_dev_run`\. Turn it off",
    ),
    "nothing to train on": (
        Plain,
        lambda module: lr_range_test(quiet_trainer(max_epochs=1, limit_train_batches=0), module, loader()),
        ValueError,
        r"could not start: the trainer has nothing to train on \(check `limit_train_batches`",
    ),
    "DeepSpeed without ZeRO": (
        Plain,
        lambda module: fit(module, strategy=DeepSpeedStrategy("cpu")),
        ValueError,
        r"Of DeepSpeed, .* knows ZeRO stages 1, 2 and 3 without NVMe, got SGD\. Choose one of these stages, or find",
    ),
    "stream as validation data": (
        Plain,
        lambda module: fit(module, DataLoader(Stream(blobs(32), once=True)), monitor="val_acc"),
        ValueError,
        r"needs validation data that can start over, but .* reads a stream\. Use a map-style data set, or monitor",
    ),
}


@pytest.mark.parametrize(("make", "run", "error", "message"), REFUSED_AT_FIT.values(), ids=REFUSED_AT_FIT.keys())
@pytest.mark.filterwarnings("ignore:.*returned `None`.*:UserWarning")  # Lightning's, about some of these modules
def test_bad_module_is_refused_before_training(make, run, error, message):
    """The message says what to do, and the module's weights are those from before."""
    module = make()
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    with pytest.raises(error, match=message):
        run(module)

    torch.testing.assert_close(dict(module.state_dict()), weights, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["advance", "_results._get_cache"])
def test_unknown_lightning_is_told_before_the_first_step(name, monkeypatch):
    """One that has renamed what the trial needs: what is missing, what is known, what to do."""
    trainer, module = quiet_trainer(max_epochs=1, callbacks=[LRRangeTest()]), Plain()
    *path, last = name.split(".")
    owner = type(attrgetter(".".join(path))(trainer.fit_loop.epoch_loop) if path else trainer.fit_loop.epoch_loop)
    monkeypatch.delattr(owner, last)
    before = module.head.weight.clone()

    with pytest.raises(RuntimeError, match=rf"versions 2\.2 to 2\.6; .* no fit_loop\.epoch_loop\.{name}\. Install"):
        trainer.fit(module, loader())

    assert torch.equal(module.head.weight, before)
