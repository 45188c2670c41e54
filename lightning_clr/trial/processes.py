"""What processes that a launcher has made find out, brought to the one that made them.

With ``ddp_spawn``, ``ddp_notebook`` and on TPUs, ``fit`` runs on copies of trainer, module and callbacks, in processes
that end with it. Lightning sends back weights, logged metrics and the trainer's state, and nothing that callbacks know.
"""

import functools
import gc
from collections.abc import Callable
from typing import Any

from lightning_clr.lightning import Trainer, lightning_name, packages_in_use
from lightning_clr.trial.private import end_of_fit
from lightning_clr.trial.snapshot import Snapshot


def send_home(trainer: Trainer, key: str, news: dict[str, Any]) -> None:
    """Hand news to the same callback in the process that waits for this one, if there is one, when ``fit`` ends.

    Args:
        trainer: The trainer, whose state they travel with.
        key: By which callbacks of both processes know each other: their attribute ``key``.
        news: Plain numbers and strings, for the callback's ``receive(trainer, news)``.
    """
    if _launches_copies(trainer):
        trainer.state.lr_range_test = _Parcel(key, news)  # type: ignore[attr-defined]


class _Parcel:
    """News that are handed over where they are unpickled."""

    def __init__(self, key: str, news: dict[str, Any]) -> None:
        self.key = key
        self.news = news

    def __deepcopy__(self, memo: Any) -> "_Parcel":
        return self  # Lightning copies what it sends, which is no arrival

    def __reduce__(self) -> Any:
        return _deliver, (self.key, self.news)


def _deliver(key: str, news: dict[str, Any]) -> None:
    kinds = tuple(package.Trainer for package in packages_in_use())
    for trainer in [one for one in gc.get_objects() if issubclass(type(one), kinds)]:
        for callback in vars(trainer).get("callbacks", ()):
            if getattr(callback, "key", None) == key:
                callback.receive(trainer, news)


def let_processes_end_early(snapshot: Snapshot, trainer: Trainer) -> None:
    """Let :func:`end_of_fit` end ``fit`` quietly also where it runs in other processes, until the snapshot's end."""
    launcher = trainer.strategy.launcher
    if _launches_copies(trainer):
        snapshot.add_attributes(launcher)  # which would not launch another `fit` after this one
        snapshot.replace(launcher, launch=functools.partial(_launch, launcher.launch))  # type: ignore[union-attr]


def _launches_copies(trainer: Trainer) -> bool:
    return hasattr(trainer.strategy.launcher, "get_extra_results")


def _launch(launch: Callable[..., Any], function: Any, *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
    return launch(functools.partial(_run, trainer, function), *args, trainer=trainer, **kwargs)


def _run(trainer: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
    """What Lightning does around ``fit`` in the main process, where it knows this end."""
    try:
        return function(*args, **kwargs)
    except type(end_of_fit(trainer)):
        lightning_name(trainer, "trainer.call", "_call_teardown_hook")(trainer)
        trainer._teardown()
        trainer.state.status = lightning_name(trainer, "trainer.states", "TrainerStatus").FINISHED
        trainer.state.stage = None
