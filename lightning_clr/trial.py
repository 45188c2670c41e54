"""Runs real training batches and takes them back: the only room that touches Lightning's private parts.

A *shadow* fit loop, of the trainer's own class, stands in for the trainer's fit loop and is driven batch by batch, so
that accumulation, precision, clipping and every override of the user are Lightning's own code. Counters, metric results
and fetchers live on loop objects and vanish with the shadow; everything else is put back by a
:class:`~lightning_clr.snapshot.Snapshot`. Callbacks, loggers, learning rate schedulers and checkpoints sleep meanwhile.
"""

import copy
import dataclasses
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from operator import attrgetter
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from lightning_utilities.core.overrides import is_overridden
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from lightning_clr.packages import Callback, callbacks_of_kind, lightning_name
from lightning_clr.snapshot import Snapshot, count_as_users, is_restorable, rng_state, same_rng_state, set_rng_state
from lightning_clr.zero import is_deepspeed, remember_zero, torch_optimizers

_TESTED = "2.2 to 2.6"
_NEEDED = (
    *(f"fit_loop.{name}" for name in ("_data_source", "_combined_loader", "_data_fetcher", "max_batches")),
    *(f"fit_loop.epoch_loop.{name}" for name in ("advance", "reset", "_results._get_cache")),
    *(f"fit_loop.epoch_loop.val_loop.{name}" for name in ("run", "_data_source", "_combined_loader", "_max_batches")),
    *(f"_logger_connector.{name}" for name in ("_callback_metrics", "_first_loop_iter", "_current_fx")),
    "_logger_connector.epoch_end_reached",
)
"""What the trial asks of a trainer that Lightning does not promise."""
_START_HOOKS = ("on_train_start", "on_train_epoch_start")


class Trial:
    """Training batches that will be undone; made by :func:`trial`.

    Attributes:
        on_optimizer_step: Called without arguments before each batch and right before each optimizer step, when
            everybody else has had their say.
    """

    def __init__(self, trainer: Any, loop: Any) -> None:
        self.on_optimizer_step: Callable[[], None] = lambda: None
        self._trainer = trainer
        self._loop = loop
        self._loss: Tensor | None = None
        self._epoch = 0

    def run_batch(self) -> Tensor | None:
        """Train on the next batch, in the next epoch's order if this epoch is over.

        Returns:
            The loss that ``training_step`` returned, a scalar on its device, not divided by the number of accumulated
            batches; ``None`` if there was none.

        Raises:
            ValueError: If the training data are empty.
        """
        loop = self._loop
        self._loss = None
        for _ in range(2):
            if not loop._data_fetcher.done:
                try:
                    loop.epoch_loop.advance(loop._data_fetcher)
                    self._heed_sigterm()
                    return self._loss
                except StopIteration:  # no more batches, or `on_train_batch_start` has ended the epoch
                    pass
            self._start_next_epoch()
        raise ValueError(
            "A range test needs training batches, but the training data ended at once, twice. Check the data loader,"
            " and that `on_train_batch_start` does not return -1 at every start of an epoch."
        )

    def _heed_sigterm(self) -> None:
        """End on SIGTERM, all ranks together; newer Lightning sees to that in `advance` where there are several."""
        trainer = self._trainer
        if trainer.world_size > 1 and hasattr(self._loop.epoch_loop, "_broadcast_sigterm_tensor"):
            return
        if trainer.strategy.reduce_boolean_decision(trainer.received_sigterm, all=False):
            raise lightning_name(trainer, "utilities.exceptions", "SIGTERMException")()

    @property
    def names(self) -> set[str]:
        """Of all that has been logged with ``self.log``."""
        results, of_steps = self._loop.epoch_loop._results, self._trainer._logger_connector._callback_metrics
        return {*of_steps, *(item.meta.name for item in results.values())}

    def logged(self, name: str) -> Tensor | None:
        """The value of the last batch that was logged with ``self.log``, or the mean since the last call.

        The latter is what a torchmetrics object has that is only updated, and what is logged with ``on_step=False``.
        Nothing else is computed: it may be slow, and takes all ranks. ``None`` if there is no such value.
        """
        results, of_step = self._loop.epoch_loop._results, self._trainer._logger_connector._callback_metrics.get(name)
        of_window = None
        if of_step is None:
            for item in results.values():
                if name in (item.meta.name, item.meta.forked_name(on_step=False)) and not item.has_reset:
                    of_window = results._get_cache(item, on_step=False)
        results.reset()
        return of_window if of_step is None else of_step

    def validate(self) -> dict[str, Tensor]:
        """Run the validation loop as the trainer would, and return what it logged; empty without validation data.

        Raises:
            ValueError: If the validation data are a stream that cannot start over.
        """
        trainer, connector = self._trainer, self._trainer._logger_connector
        if not trainer.enable_validation:
            return {}
        combined = self._loop.epoch_loop.val_loop._combined_loader
        if combined is not None and not all(map(_can_start_over, combined.flattened)):
            raise ValueError(
                "A range test that monitors a validation metric needs validation data that can start over, but the"
                " loader reads a stream. Use a map-style data set, or monitor a metric of `training_step`."
            )
        first_iteration, connector._first_loop_iter = connector._first_loop_iter, None
        trainer.validating = True
        try:
            self._loop.epoch_loop.val_loop.run()
            return dict(connector._callback_metrics)
        finally:
            trainer.training = True
            connector._first_loop_iter = first_iteration

    def _start_next_epoch(self) -> None:
        self._epoch += 1
        for loader in self._loop._combined_loader.flattened:
            batch_sampler: Any = getattr(loader, "batch_sampler", None)
            samplers: list[Any] = [getattr(loader, "sampler", None), batch_sampler]
            for sampler in (*samplers, getattr(batch_sampler, "sampler", None)):
                if callable(getattr(sampler, "set_epoch", None)):
                    sampler.set_epoch(self._epoch)
        self._trainer._logger_connector.epoch_end_reached()
        self._loop.epoch_loop.reset()
        iter(self._loop._data_fetcher)


@contextmanager
def trial(
    trainer: Any, module: Any, snapshot_device: torch.device | str | None = None, start_hooks: bool = False
) -> Iterator[Trial]:
    """Training batches that leave no trace, whether the ``with`` block ends well or with any exception.

    To be called in ``on_train_start``. The module's batch hooks run as in training; its hooks of epochs and of the
    whole training do not, nor do other callbacks, loggers and learning rate schedulers.

    Args:
        trainer: The trainer that is about to train.
        module: Its LightningModule.
        snapshot_device: Where copies of the tensors are kept; by default beside the originals.
        start_hooks: Whether to run, and undo, the module's ``on_train_start`` and ``on_train_epoch_start`` too.

    Raises:
        RuntimeError: If this Lightning lacks a private name that the trial needs.
    """
    _require_known_lightning(trainer)
    real, strategy = trainer.fit_loop, trainer.strategy
    loop = type(real)(trainer, min_epochs=0, max_epochs=real.max_epochs)
    loop.epoch_loop = type(real.epoch_loop)(trainer, min_steps=None, max_steps=real.max_steps)
    loop.epoch_loop._results = _moved_once(loop.epoch_loop._results)
    this = Trial(trainer, loop)
    quiet = {
        "fit_loop": loop,
        "callbacks": [_Recorder(this)],
        "loggers": [_stand_in(trainer)] if trainer.loggers else [],
        "profiler": _no_profiler(trainer),
        "should_stop": False,
        "accumulate_grad_batches": _accumulated_batches(trainer),
    }
    unlogged: dict[str, Any] = {name: {} for name in ("_progress_bar_metrics", "_logged_metrics", "_callback_metrics")}
    with ExitStack() as undo:
        undo.push(functools.partial(_wrap_again, strategy, strategy.model))
        snapshot = undo.enter_context(Snapshot(snapshot_device))
        _remember(snapshot, trainer, module)
        undo.enter_context(_replaced(trainer._logger_connector, _first_loop_iter=None, _current_fx=None, **unlogged))
        undo.enter_context(_replaced(trainer.state, stage=trainer.state.stage))
        undo.enter_context(_replaced(trainer, **quiet))
        if module.automatic_optimization:  # otherwise the user's code steps them, and expects to find them
            asleep = [dataclasses.replace(config, interval="asleep") for config in strategy.lr_scheduler_configs]
            undo.enter_context(_replaced(strategy, lr_scheduler_configs=asleep))
        undo.enter_context(_trial_data(real, loop))
        # a trainer that detects anomalies would end the job at the NaN that a range test is out to find
        undo.enter_context(torch.autograd.set_detect_anomaly(False))
        undo.enter_context(torch.enable_grad())
        if start_hooks:
            for name in _START_HOOKS:
                getattr(module, name)()
        yield this


@contextmanager
def signals_held(trainer: Any) -> Iterator[None]:
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


def _note_sigterm(trainer: Any, signum: int, frame: Any) -> None:
    """What Lightning's handler does, without a broadcast: other ranks may be waiting in another collective."""
    connector, launcher = trainer._signal_connector, trainer.strategy.launcher
    if launcher is not None and not connector.received_sigterm:
        launcher.kill(signum)
    connector.received_sigterm = True
    users = connector._original_handlers.get(signum)
    if callable(users):
        users(signum, frame)


def end_of_fit(trainer: Any) -> Exception:
    """The exception that makes a trainer tear down quietly and return from ``fit``."""
    error: Exception = lightning_name(trainer, "utilities.exceptions", "_TunerExitException")()
    return error


def overrides_start_hooks(module: Any) -> bool:
    """Whether a module does something of its own when training or an epoch starts."""
    base = next(cls for cls in type(module).__mro__ if cls.__name__ == "LightningModule")
    return any(is_overridden(name, module, base) for name in _START_HOOKS)


def logs_hyperparameters(module: Any) -> bool:
    """Whether a module wants its hyper-parameters in the loggers."""
    return bool(module._log_hyperparams)


class _Recorder(Callback):
    """The only callback awake during a trial."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def on_train_batch_start(self, *_: Any) -> None:
        self.trial.on_optimizer_step()

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.trial.on_optimizer_step()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if loss is not None and module.automatic_optimization:
            loss = loss * trainer.accumulate_grad_batches  # which Lightning has divided it by
        self.trial._loss = loss


def _remember(snapshot: Snapshot, trainer: Any, module: Any) -> None:
    """Everything outside the loops that training batches can change."""
    strategy = trainer.strategy
    count_as_users(module, trainer.datamodule)
    snapshot.add(module)
    if is_deepspeed(trainer):
        remember_zero(snapshot, strategy.model)
    for part in (*torch_optimizers(trainer), *(config.scheduler for config in strategy.lr_scheduler_configs)):
        snapshot.add(part)
    for part in (strategy, strategy.precision_plugin, *strategy._lightning_optimizers):
        snapshot.add_attributes(part)
    snapshot.add(getattr(strategy.precision_plugin, "scaler", None))
    for name in ("_ddp_comm_state", "_model_averager"):
        if getattr(strategy, name, None) is not None:
            snapshot.add_attributes(getattr(strategy, name))
    snapshot.add(trainer.datamodule)
    _remember_data(snapshot, trainer)


def _remember_data(snapshot: Snapshot, trainer: Any) -> None:
    for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop):
        for loader in loop._combined_loader.flattened if loop._combined_loader is not None else ():
            snapshot.add(getattr(loader, "dataset", loader), data=True)
            if isinstance(loader, DataLoader):
                for part in (loader.sampler, loader.batch_sampler, loader.generator, loader.collate_fn):
                    snapshot.add(part)


@contextmanager
def _replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def _trial_data(real: Any, loop: Any) -> Iterator[None]:
    """Give the shadow loop data of its own, so that the real iterators stay where they are.

    What can start over is iterated afresh. A stream that cannot is read, and its batches are handed out again.
    """
    tees = {}
    flattened = []
    for index, loader in enumerate(real._combined_loader.flattened):
        if _can_start_over(loader):
            flattened.append(_fresh(loader))
        else:
            tees[index] = _Tee(real._combined_loader._iterator.iterators[index])
            flattened.append(tees[index])
    loop._data_source, loop.max_batches = real._data_source, real.max_batches
    loop._combined_loader = _combined(real._combined_loader, flattened)
    loop._data_fetcher = type(real._data_fetcher)()
    loop._data_fetcher.setup(loop._combined_loader)
    real_val, val = real.epoch_loop.val_loop, loop.epoch_loop.val_loop
    val._data_source = real_val._data_source
    if real_val._combined_loader is not None:
        val._combined_loader = _combined(real_val._combined_loader, map(_fresh, real_val._combined_loader.flattened))
        val._max_batches = real_val._max_batches
    try:
        iter(loop._data_fetcher)
        loop.epoch_loop.reset()
        yield
    finally:
        for index, tee in tees.items():
            real._combined_loader._iterator.iterators[index] = _Replay(tee)
        if loop._combined_loader._iterator is not None:  # else its making has failed
            loop._data_fetcher.teardown()
        if val._combined_loader is not None:
            val._combined_loader.reset()


def _can_start_over(loader: Any) -> bool:
    if isinstance(loader, DataLoader):
        streams = isinstance(loader.dataset, IterableDataset) and loader.num_workers == 0
        return not streams or is_restorable(loader.dataset)
    return is_restorable(loader)


def _fresh(loader: Any) -> Any:
    if isinstance(loader, DataLoader):
        loader = copy.copy(loader)
        loader._iterator = None  # persistent workers belong to the original
    return loader


def _combined(real: Any, loaders: Any) -> Any:
    combined = type(real)(real.iterables, real._mode)
    combined.flattened = list(loaders)
    combined.limits = real.limits
    return combined


class _Tee:
    """Iterates over a live stream and keeps what it takes; a second pass starts again with what was kept."""

    def __init__(self, stream: Iterator[Any]) -> None:
        self.stream = stream
        self.kept: list[Any] = []
        self.exhausted = False
        self.rng_around_first: list[dict[str, Any]] = []

    def __iter__(self) -> Iterator[Any]:
        for batch in [*self.kept]:
            yield _cloned(batch)
        while not self.exhausted:
            before = {} if self.kept else rng_state()
            try:
                batch = next(self.stream)
            except StopIteration:
                self.exhausted = True
                return
            if not self.kept:
                self.rng_around_first = [before, rng_state()]
            self.kept.append(batch)
            yield _cloned(batch)  # training steps may write into their batch


class _Replay:
    """What real training gets in place of a stream that a trial has read from: its batches, then the rest."""

    def __init__(self, tee: _Tee) -> None:
        self.tee = tee
        self.kept = iter(tee.kept)
        self.started = False

    def __iter__(self) -> "_Replay":
        return self

    def __next__(self) -> Any:
        for batch in self.kept:
            if not self.started:
                self._draw_as_the_stream_did()
            return batch
        if self.tee.exhausted:
            raise StopIteration
        return next(self.tee.stream)

    def _draw_as_the_stream_did(self) -> None:
        """A stream that shuffles draws from the global generators when it starts: let them move as they would have."""
        self.started = True
        before, after = self.tee.rng_around_first
        if same_rng_state(before, rng_state()):
            set_rng_state(after)


def _cloned(batch: Any) -> Any:
    arrays = (Tensor, sys.modules["numpy"].ndarray) if "numpy" in sys.modules else Tensor
    return apply_to_collection(batch, arrays, copy.deepcopy)


def _stand_in(trainer: Any) -> Any:
    """A logger that writes nothing, and answers like the trainer's where its files would be."""
    real, dummy = trainer.loggers[0], lightning_name(trainer, "loggers.logger", "DummyLogger")
    names = {name: getattr(real, name, None) for name in ("name", "version", "save_dir", "log_dir")}
    return type("StandIn", (dummy,), names)()


def _no_profiler(trainer: Any) -> Any:
    """A profiler that does not even call itself, as the one that passes through does forty times a batch."""
    nothing = nullcontext()
    base = lightning_name(trainer, "profilers", "PassThroughProfiler")
    return type("NoProfiler", (base,), {"profile": lambda self, action_name: nothing})()


def _moved_once(results: Any) -> Any:
    """Results that move to a device once, not with every value that is logged, which takes longer than to log it."""

    def set_item(self: dict[str, Any], key: str, item: Any) -> None:
        item.to = functools.lru_cache(1)(item.to)
        dict.__setitem__(self, key, item)

    return type("MovedOnce", (type(results),), {"__setitem__": set_item})(training=True)


def _accumulated_batches(trainer: Any) -> int:
    for callback in callbacks_of_kind(trainer, "GradientAccumulationScheduler"):
        return int(callback.get_accumulate_grad_batches(0))
    return int(trainer.accumulate_grad_batches)


def _wrap_again(strategy: Any, wrapped: Any, error: type[BaseException] | None, *_: Any) -> None:
    """Build the DDP wrapper anew: it sorts its buckets in the first backward, which changes the order of summation.

    Not after an error: the ranks must agree to build it, and the others may not know of the error.
    """
    if error is None and isinstance(wrapped, DistributedDataParallel):
        strategy.model = strategy.lightning_module
        strategy.model = strategy._setup_model(strategy.model)
        strategy._register_ddp_hooks()


def _require_known_lightning(trainer: Any) -> None:
    missing = [name for name in _NEEDED if not _has(trainer, name)]
    if missing:
        raise RuntimeError(
            f"The range test drives Lightning's training loop and knows versions {_TESTED}; in the installed one,"
            f" the trainer has no {', '.join(missing)}. Install a known version, or remove `LRRangeTest` and set"
            " the bounds."
        )


def _has(trainer: Any, name: str) -> bool:
    try:
        attrgetter(name)(trainer)
    except AttributeError:
        return False
    return True
