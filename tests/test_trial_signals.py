"""Signals in the middle of a range test: none is lost, and none takes its steps for those of training."""

import signal
import threading

import pytest

from lightning_clr import LRRangeTest
from support.data import loader
from support.models import Plain, Scheduled
from support.training import quiet_trainer


class Sent(Scheduled):
    """Sends itself a signal in the sixth step of its life, in the middle of a test; counts its steps."""

    signum: int | None = None
    error: Exception | None = None
    steps = 0  # on the class, which no trial undoes

    def training_step(self, batch, batch_idx):
        type(self).steps += 1
        if self.steps == 6 and self.signum is not None:
            signal.raise_signal(self.signum)
        if self.steps == 8 and self.error is not None:
            raise self.error
        return super().training_step(batch, batch_idx)


@pytest.fixture
def handled():
    """What the user's signal handlers have seen; they are taken away afterwards."""
    calls = []
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield calls
    for signum, handler in before.items():
        signal.signal(signum, handler)


def fit_with(signum: int, calls: list, error: Exception | None = None, **kwargs) -> tuple:
    """Train with a handler of the user's, which writes down bounds and steps; then handler and steps at the end."""
    module = type("Module", (Sent,), {"signum": signum, "error": error})()
    test = LRRangeTest(num_steps=14, closer_look=False)
    signal.signal(signum, lambda *_: calls.append((module.lr_bounds, module.steps)))
    try:
        quiet_trainer(max_epochs=1, callbacks=[test], **kwargs).fit(module, loader(160))
    finally:
        calls.append((signal.getsignal(signum), module.steps))
    return module, test


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGUSR2], ids=["SIGUSR1", "SIGUSR2"])
def test_handler_of_the_user_sees_a_tested_training(signum, handled):
    """It may write a checkpoint: it is called when the test is over and the bounds are in force, and stays."""
    _, test = fit_with(signum, handled)

    (bounds, steps), (handler, _) = handled
    assert bounds == test.result.bounds
    assert steps == len(test.result.lrs) >= 10
    assert callable(handler)


def test_sigterm_ends_a_test_on_one_device_at_once(handled):
    """The handler that the user had installed before hears of it too, and stays."""
    with pytest.raises(SystemExit):
        fit_with(signal.SIGTERM, handled)

    _, (handler, steps) = handled
    assert steps == 6
    assert callable(handler)


def test_requeue_signal_is_dropped_if_the_test_fails(handled):
    """There is nothing to go on with."""
    with pytest.raises(ValueError, match="the real error"):
        fit_with(signal.SIGUSR1, handled, ValueError("the real error"))

    ((handler, _),) = handled
    assert callable(handler)


def test_test_runs_outside_the_main_thread():
    """Where Python has no signals to hold."""
    test = LRRangeTest(num_steps=14)
    trainer = quiet_trainer(max_steps=1, callbacks=[test])
    thread = threading.Thread(target=trainer.fit, args=(Plain(), loader(160)))

    thread.start()
    thread.join()

    assert len(test.result.lrs) >= 10
