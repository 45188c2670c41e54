"""Signals during a trial: none may take its steps for training."""

import functools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_clr.lightning import Trainer, lightning_name


@contextmanager
def signals_held(trainer: Trainer) -> Iterator[None]:
    """Let no signal take the steps of a trial for training.

    A signal to requeue, which Lightning answers with a checkpoint, waits for the end of the ``with`` block. SIGTERM
    ends the trial at the next batch, on all ranks together.
    """
    waiting = set[int]()

    def wait(signum: int, frame: Any) -> None:
        waiting.add(signum)

    environment = trainer._accelerator_connector.cluster_environment
    users = [getattr(signal, name, None) for name in ("SIGUSR1", "SIGUSR2")]  # which Windows does not have
    requeue = getattr(environment, "requeue_signal", None)
    held: dict[int, Any] = {signum: wait for signum in (*users, requeue) if signum is not None}
    held[signal.SIGTERM] = functools.partial(_note_sigterm, trainer)
    in_main_thread = threading.current_thread() is threading.main_thread()  # others may not set handlers
    before = {signum: handler for signum in held if callable(handler := signal.getsignal(signum)) and in_main_thread}
    try:
        for signum in before:
            signal.signal(signum, held[signum])
        yield
    except (Exception, KeyboardInterrupt):  # a checkpoint takes all ranks, and the others may not know of the error
        waiting.clear()
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        for signum in waiting:
            signal.raise_signal(signum)


def _note_sigterm(trainer: Trainer, signum: int, frame: Any) -> None:
    """What Lightning's handler does, without a broadcast: other ranks may be waiting in another collective."""
    connector, launcher = trainer._signal_connector, trainer.strategy.launcher
    if launcher is not None and not connector.received_sigterm:
        launcher.kill(signum)
    connector.received_sigterm = True
    users = connector._original_handlers.get(signum)
    if callable(users):
        users(signum, frame)


def raise_on_sigterm(trainer: Trainer) -> None:
    """End on SIGTERM, all ranks together; newer Lightning does so by itself where there are several.

    Raises:
        SIGTERMException: Lightning's own, if any rank has received the signal.
    """
    if trainer.world_size > 1 and hasattr(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor"):
        return
    if trainer.strategy.reduce_boolean_decision(trainer.received_sigterm, all=False):
        raise lightning_name(trainer, "utilities.exceptions", "SIGTERMException")()


def is_sigterm(error: BaseException) -> bool:
    """Whether an error is Lightning's answer to SIGTERM."""
    return any(kind.__name__ == "SIGTERMException" for kind in type(error).__mro__)
