"""On a GPU, or among ranks, a value is read when the next step is under way: nobody waits, the result is the same."""

import math
import warnings

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import lightning_clr.recorder
from lightning_clr import LRRangeTest, lr_range_test
from lightning_clr.recorder import Recorder
from support.data import loader
from support.models import Bounded, Hot, Noisy, Plain, Slow
from support.searches import two_sweeps
from support.training import quiet_trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def lag(monkeypatch):
    """Lets a CPU read as late as is asked for."""
    make = Recorder.__init__

    def set_lag(steps):
        def init(self, *args):
            make(self, *args)
            self._lag = steps

        monkeypatch.setattr(Recorder, "__init__", init)

    return set_lag


class Counting(Plain):
    """Counts its training steps."""

    steps = 0

    def training_step(self, batch, batch_idx):
        type(self).steps += 1
        return super().training_step(batch, batch_idx)


class CountingHot(Counting, Hot):
    pass


class CountingNoisy(Counting, Noisy):
    noise = 3.0


class CountingBounded(Counting, Bounded):
    pass


class CountingSlow(Counting, Slow):
    pass


def swept(module, accumulate=1, **arguments):
    """What is found, and the number of batches that takes."""
    torch.manual_seed(0)
    module.steps = 0
    trainer = quiet_trainer(accumulate_grad_batches=accumulate)
    result = lr_range_test(trainer, module(), loader(240), **{"num_steps": 30, **arguments})
    return result.state_dict(), module.steps


CASES = {
    "NaN": (CountingHot, 1, {"closer_look": False}, 1),
    "divergence": (Counting, 1, {"max_lr": 1000.0, "closer_look": False}, 1),
    "to the end": (Counting, 1, {"stop_factor": None}, 0),
    "accumulated": (CountingHot, 3, {"closer_look": False}, 3),
    "logged": (CountingHot, 1, {"monitor": "train_loss", "closer_look": False}, 1),
    "NaN in both sweeps": (CountingHot, 1, {}, 2),
    "closer look": (CountingNoisy, 1, {}, 1),
    "settled": (CountingBounded, 1, {"num_steps": 80, "max_lr": 100.0, "search": two_sweeps}, 2),
    "short runs": (CountingBounded, 1, {"budget": 200}, 0),
    "goes on": (CountingSlow, 1, {}, 0),
}


@pytest.mark.parametrize(("module", "accumulate", "arguments", "more"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("steps", [1, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_result_does_not_depend_on_the_lag(module, accumulate, arguments, more, steps, lag):
    """The steps that are made before the end is noticed leave nothing."""
    at_once, batches = swept(module, accumulate, **arguments)
    lag(steps)
    late, batches_late = swept(module, accumulate, **arguments)

    assert repr(late) == repr(at_once)
    assert batches_late == batches + more * steps


class RefusesNaN(CountingHot):
    """As distributions do with their parameters."""

    def training_step(self, batch, batch_idx):
        if self.head.weight.isnan().any():
            raise ValueError("the weights are NaN")
        return super().training_step(batch, batch_idx)


def test_error_after_the_divergence_is_none(lag):
    """This step is only made since nobody has looked yet."""
    at_once, _ = swept(RefusesNaN)
    lag(1)
    late, _ = swept(RefusesNaN)

    assert math.isnan(late["curves"][0]["values"][-1])
    assert repr(late) == repr(at_once)


def test_error_before_any_divergence_is_raised(lag):
    class Fails(Counting):
        def training_step(self, batch, batch_idx):
            if self.steps == 7:
                raise RuntimeError("mishap")
            return super().training_step(batch, batch_idx)

    lag(1)
    with pytest.raises(RuntimeError, match="mishap"):
        swept(Fails)


def test_value_is_read_after_the_next_step(lag, monkeypatch):
    """All but the last, after which there is none."""
    read = []

    class Value(lightning_clr.recorder._Value):
        def __init__(self, *args):
            super().__init__(*args)
            self.step = Counting.steps

        def __float__(self):
            read.append((self.step, Counting.steps))
            return super().__float__()

    monkeypatch.setattr(lightning_clr.recorder, "_Value", Value)
    lag(1)
    swept(Counting, num_steps=10, stop_factor=None)

    assert read == [*((step, step + 1) for step in range(1, 10)), (10, 10)]


class Waits(TorchDispatchMode):
    """Counts what would let the program wait for a device: numbers that leave tensors."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.number += name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
        return function(*args, **(kwargs or {}))


def waits(steps, swept, monkeypatch):
    """How often a sweep, or training, of so many steps would wait."""
    test = LRRangeTest(num_steps=steps, stop_factor=None, max_lr=0.1, closer_look=False)
    trainer = quiet_trainer(max_steps=1 if swept else steps, callbacks=[test] if swept else [])
    with Waits() as waits, monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("tolist", "numpy", "cpu"):  # which are not dispatched for tensors of a CPU
            patch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name), waits))
        trainer.fit(Plain(), loader(640))
    return waits.number


def counted(method, waits):
    def call(*args, **kwargs):
        waits.number += 1
        return method(*args, **kwargs)

    return call


def test_sweep_waits_for_nothing_but_recorded_values(monkeypatch):
    """One number a step leaves its tensor, that of a step before; in training none does."""
    trained = waits(20, False, monkeypatch) - waits(10, False, monkeypatch)
    swept = waits(20, True, monkeypatch) - waits(10, True, monkeypatch)

    assert trained == 0
    assert swept == 10


@needs_gpu
def test_sweep_does_not_wait_for_the_gpu():
    """CUDA itself counts no more calls that wait in a sweep than in training."""

    def waits(steps, swept):
        test = LRRangeTest(num_steps=steps, stop_factor=None, max_lr=0.1, closer_look=False)
        trainer = quiet_trainer(
            accelerator="gpu", max_steps=1 if swept else steps, callbacks=[test] if swept else []
        )  # fmt: skip
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                trainer.fit(Plain(), loader(640))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing CUDA operation" in str(warning.message) for warning in told)

    assert waits(20, True) - waits(10, True) <= waits(20, False) - waits(10, False)


@needs_gpu
def test_result_is_the_same_on_a_gpu():
    """It ends at the same step."""
    found = []
    for accelerator in ("cpu", "gpu"):
        torch.manual_seed(0)
        found.append(lr_range_test(quiet_trainer(accelerator=accelerator), Hot(), loader(), num_steps=30).lrs)

    assert found[0] == found[1]
