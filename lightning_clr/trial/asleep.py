"""What sleeps during a trial: callbacks, loggers, the profiler, learning rate schedulers.

All stay where they are and of the class they are, so that whoever looks one up finds it. A callback's hooks do nothing;
a logger answers for its names and folders, and writes nothing.
"""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from types import FunctionType
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from lightning_clr.lightning import (
    PACKAGES,
    Callback,
    LightningModule,
    Trainer,
    lightning_name,
    lr_schedulers,
    package_of,
)
from lightning_clr.trial.silent import Silent, stand_in
from lightning_clr.trial.snapshot import Snapshot

_LIVE = ("experiment", "run")
"""Properties of loggers that start what they give: a run, a file, a connection."""
_EXPERIMENTS = {
    "TensorBoardLogger": (("torch.utils.tensorboard", "SummaryWriter"), ("tensorboardX", "SummaryWriter")),
    "WandbLogger": (("wandb.sdk.wandb_run", "Run"),),
    "MLFlowLogger": (("mlflow.tracking", "MlflowClient"),),
}
"""Classes of what Lightning's loggers write to, which user's code may ask for."""
_CHANGES_BATCHES = "on_train_batch_start"
_HARMLESS = ("ProgressBar", "Timer", "LearningRateMonitor", "DeviceStatsMonitor", "ThroughputMonitor")


def put_to_sleep(
    snapshot: Snapshot,
    trainer: Trainer,
    module: LightningModule,
    listener: Callback,
    awake: Sequence[type | str] = (),
) -> None:
    """Let nobody but ``listener``, and callbacks of the classes ``awake``, notice the steps of a trial.

    Until the end of the snapshot. Learning rate schedulers do not step, also where the user's code steps them.
    """
    _silence_schedulers(snapshot, [*lr_schedulers(trainer), *_held_schedulers(snapshot, trainer, module)])
    callbacks: list[Any] = [*trainer.callbacks]  # type: ignore[attr-defined]
    for callback in callbacks:
        if is_one_of(callback, awake):
            snapshot.add(vars(callback))
        else:
            _remember(snapshot, callback)
            _silence(callback, _hooks(trainer))
            _show_no_bar(trainer, callback)
    for logger in trainer.loggers:
        _silence_logger(snapshot, trainer, logger)
        _replace_where_kept(snapshot, [*module.modules(), *callbacks], logger)
    everybody = [*callbacks, listener]
    snapshot.replace(trainer, callbacks=everybody, loggers=[*trainer.loggers], profiler=_no_profiler(trainer))
    if module.automatic_optimization:
        configs = [dataclasses.replace(config, interval="asleep") for config in trainer.lr_scheduler_configs]
        snapshot.replace(trainer.strategy, lr_scheduler_configs=configs)


def _held_schedulers(snapshot: Snapshot, trainer: Trainer, module: LightningModule) -> list[Any]:
    """The learning rate schedulers that a module reaches, through its attributes, containers and objects."""
    reached = snapshot.reached(module, (trainer, *module.parameters(), *module.buffers()))
    return [value for value in reached if isinstance(value, LRScheduler)]


def _silence_schedulers(snapshot: Snapshot, schedulers: Iterable[Any]) -> None:
    """Let no step be taken by schedulers, of which some would run out in a sweep longer than the training.

    The learning rate of each step is the sweep's in any case.
    """
    for scheduler in schedulers:
        snapshot.add_attributes(scheduler)
        for name in ("step", "step_update"):
            if hasattr(scheduler, name) and hasattr(scheduler, "__dict__"):
                vars(scheduler)[name] = _do_nothing


def set_up_only(snapshot: Snapshot, trainer: Trainer, first: Callback) -> None:
    """Let a ``fit`` that ends before its first step write and print nothing, until the end of the snapshot.

    Callbacks set up (they may accumulate gradients, or freeze layers), behind ``first``.
    """
    saves_config = (lightning_name(trainer, "cli", "SaveConfigCallback"),) if _uses_cli(trainer) else ()
    writes = tuple(lightning_name(trainer, "callbacks", name) for name in ("Checkpoint", "ModelSummary"))
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        _remember(snapshot, callback)
        if is_ours(callback) or isinstance(callback, saves_config):
            _silence(callback, _hooks(trainer))
        elif isinstance(callback, writes):
            _silence(callback, _hooks(trainer))
            vars(callback)["setup"] = functools.partial(_set_up, type(callback).setup, callback)
    for logger in trainer.loggers:
        _silence_logger(snapshot, trainer, logger)
    callbacks = [first, *trainer.callbacks]  # type: ignore[attr-defined]
    snapshot.replace(trainer, callbacks=callbacks, loggers=[*trainer.loggers], num_sanity_val_steps=0)


def wake_up(trainer: Trainer) -> None:
    """Run the hooks of a training's start of those callbacks that are awake."""
    call = lightning_name(trainer, "trainer.call", "_call_callback_hooks")
    for hook in ("on_train_start", "on_train_epoch_start"):
        call(trainer, hook)


def is_one_of(callback: Any, kinds: Iterable[type | str]) -> bool:
    """Whether a callback is of one of some classes, which may be given by name, with or without the module's."""
    names = {name for kind in type(callback).__mro__ for name in (kind.__name__, f"{kind.__module__}.{kind.__name__}")}
    return any(kind in names if isinstance(kind, str) else isinstance(callback, kind) for kind in kinds)


def is_ours(callback: Any) -> bool:
    """Whether a callback is one of this package's, or derived from one."""
    return any(kind.__module__.partition(".")[0] == "lightning_clr" for kind in type(callback).__mro__)


def sleepers(trainer: Trainer, awake: Sequence[type | str] = ()) -> list[str]:
    """Names of the user's own callbacks that sleep."""
    callbacks = [one for one in trainer.callbacks if not (is_ours(one) or is_one_of(one, awake))]  # type: ignore[attr-defined]
    return [type(callback).__name__ for callback in callbacks if not _is_lightnings(type(callback))]


def changers_of_batches(trainer: Trainer) -> list[str]:
    """Names of the callbacks that may change the batches of training: without them, its steps are other ones."""
    harmless = tuple(lightning_name(trainer, "callbacks", name) for name in _HARMLESS if _has_callback(trainer, name))
    return [
        type(callback).__name__
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if not is_ours(callback) and not isinstance(callback, harmless) and _has_own(callback, _CHANGES_BATCHES)
    ]


def _has_callback(trainer: Trainer, name: str) -> bool:
    return hasattr(sys.modules[f"{package_of(trainer)}.callbacks"], name)


def _has_own(callback: Any, hook: str) -> bool:
    """Whether a hook is the user's, not Lightning's."""
    owner = next((kind for kind in type(callback).__mro__ if hook in vars(kind)), None)
    is_given = vars(callback).get(hook, _do_nothing) is not _do_nothing
    return is_given or (owner is not None and not _is_lightnings(owner))


def _is_lightnings(kind: type) -> bool:
    return kind.__module__.startswith(tuple(f"{package}." for package in PACKAGES))


def _hooks(trainer: Trainer) -> list[str]:
    """The hooks of a callback."""
    names = vars(lightning_name(trainer, "callbacks", "Callback"))
    return [name for name in names if name.startswith("on_") or name in ("setup", "teardown")]


def _silence(callback: Any, hooks: Iterable[str]) -> None:
    """Let hooks do nothing: what is found in the instance comes before its class, whatever its ``__setattr__`` does."""
    vars(callback).update(dict.fromkeys(hooks, _do_nothing))


def _do_nothing(*_: Any, **__: Any) -> None:
    """A hook asleep."""


def _set_up(setup: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """Set up without a word, such as the one of a checkpoint about a folder that is not empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setup(*args, **kwargs)


def _remember(snapshot: Snapshot, callback: Any) -> None:
    """What the steps may change in a callback that sleeps: they may look it up.

    Nobody trains the modules that it holds, such as an average of the weights; they are not copied.
    """
    snapshot.add_attributes(callback)
    if not (is_ours(callback) or _is_lightnings(type(callback))):
        for value in vars(callback).values():
            snapshot.add(value, data=isinstance(value, nn.Module))


def _show_no_bar(trainer: Trainer, callback: Any) -> None:
    """Let a progress bar that is asleep be asked for its bars, which it makes when training starts, and print."""
    if isinstance(callback, lightning_name(trainer, "callbacks", "ProgressBar")):
        bars = [name for name, value in vars(callback).items() if value is None and "progress" in name]
        vars(callback).update({name: Silent(name) for name in bars}, print=print)


def _silence_logger(snapshot: Snapshot, trainer: Trainer, logger: Any) -> None:
    """Let a logger swallow what is written to it, or to its experiment, which is not started."""
    snapshot.add_attributes(logger)
    for value in vars(logger).values():
        if isinstance(value, dict | list | set):
            snapshot.add(value, data=True)
    real = vars(logger).get("_experiment")
    silent = Silent("experiment", "", real)
    silent._kind = functools.cache(functools.partial(_kind_of_experiment, type(logger)))
    for name in _LIVE:
        owner = next((kind for kind in type(logger).__mro__ if name in vars(kind)), None)
        if owner is not None:
            snapshot.replace(owner, **{name: _of_one(logger, silent, vars(owner)[name])})
    folder = _folder(trainer, logger)
    vars(silent)["_silent"] = ("experiment", folder, real)
    snapshot.finally_do(functools.partial(silent.wake_up, logger))
    for name, value in vars(logger).items():
        if not (name.startswith("_") or isinstance(value, dict | list | set)):
            vars(logger)[name] = stand_in(name, folder, value)
    vars(logger).update({name: Silent(name, folder) for name in _writing_methods(type(logger))})


def _replace_where_kept(snapshot: Snapshot, owners: Iterable[Any], logger: Any) -> None:
    """Give those who have kept a logger's experiment in an attribute what stands in for it."""
    real = vars(logger).get("_experiment")
    for owner in owners if real is not None else ():
        kept = [name for name, value in getattr(owner, "__dict__", {}).items() if value is real]
        snapshot.replace(owner, **dict.fromkeys(kept, logger.experiment))


def _kind_of_experiment(logger_class: type) -> Any:
    """The class of what a logger writes to, which it has not made yet; ``Silent`` for loggers that are not known."""
    for kind in logger_class.__mro__:
        for module, name in _EXPERIMENTS.get(kind.__name__, ()):
            with contextlib.suppress(ImportError):
                return getattr(importlib.import_module(module), name)
    return Silent


def _of_one(owner: Any, value: Any, original: Any) -> property:
    """A property that has another value for one object, and is the original for all others."""

    def get(self: Any) -> Any:
        return value if self is owner else original.__get__(self, type(self))

    return property(get)


def _folder(trainer: Trainer, logger: Any) -> str:
    for name in ("log_dir", "save_dir"):
        try:
            folder = getattr(logger, name)
        except Exception:  # of a logger that has none
            continue
        if folder is not None:
            return str(folder)
    return str(trainer.default_root_dir)


def _writing_methods(kind: type) -> list[str]:
    """The public methods of a logger but for those that only get something."""
    methods = (FunctionType, staticmethod, classmethod)
    names = [name for name in dir(kind) if not name.startswith(("_", "get"))]
    return [name for name in names if isinstance(inspect.getattr_static(kind, name), methods)]


def _uses_cli(trainer: Trainer) -> bool:
    return f"{package_of(trainer)}.cli" in sys.modules


def _no_profiler(trainer: Trainer) -> Any:
    """A profiler that does not even call itself, as the one that passes through does forty times a batch."""
    nothing = contextlib.nullcontext()
    base = lightning_name(trainer, "profilers", "PassThroughProfiler")
    return type("NoProfiler", (base,), {"profile": lambda self, action_name: nothing})()
