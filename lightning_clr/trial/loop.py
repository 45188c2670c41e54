"""Runs real training batches and takes them back.

A *shadow* fit loop, of the trainer's own class, stands in for the trainer's fit loop and is driven batch by batch, so
that accumulation, precision, clipping and every override of the user are Lightning's own code. Counters, metric results
and fetchers live on loop objects and vanish with the shadow; everything else is put back by a
:class:`~lightning_clr.trial.snapshot.Snapshot`.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning_utilities.core.overrides import is_overridden
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from lightning_clr.checks import add_note
from lightning_clr.lightning import (
    Callback,
    LightningModule,
    Trainer,
    accumulated_batches,
    is_deepspeed,
    lr_schedulers,
    torch_optimizers,
)
from lightning_clr.trial.asleep import put_to_sleep, sleepers, wake_up
from lightning_clr.trial.data import TrialData, start_epoch
from lightning_clr.trial.ddp import buckets_as_at_first
from lightning_clr.trial.deepspeed import remember_zero
from lightning_clr.trial.fsdp import in_shards, is_in_shards
from lightning_clr.trial.private import require_known_lightning
from lightning_clr.trial.signals import raise_on_sigterm
from lightning_clr.trial.snapshot import Snapshot

_START_HOOKS = ("on_train_start", "on_train_epoch_start")


class StartHooksNeededError(AttributeError):
    """The first batch has failed for want of an attribute, which the module may make in a hook that did not run."""


class Trial:
    """Training batches that will be undone; made by :func:`trial`.

    Attributes:
        on_optimizer_step: Called without arguments before each batch and right before each optimizer step, when
            everybody else has had their say.
        has_run: Whether a batch has been trained on.
    """

    def __init__(self, trainer: Trainer, loop: Any, data: TrialData) -> None:
        self.on_optimizer_step: Callable[[], None] = lambda: None
        self.has_run = False
        self._trainer = trainer
        self._loop = loop
        self._data = data
        self._loss: Tensor | None = None
        self._epoch = 0

    def run_batch(self) -> Tensor | None:
        """Train on the next batch, in the next epoch's order if this epoch is over.

        Returns:
            The loss that ``training_step`` returned, a scalar on its device, not divided by the number of accumulated
            batches; ``None`` if there was none.

        Raises:
            ValueError: If the training data are empty.
            RuntimeError: If a training step keeps raising ``StopIteration``, at which Lightning ends an epoch.
        """
        loop = self._loop
        self._loss = None
        stopped: StopIteration | None = None
        for _ in range(2):
            if not loop._data_fetcher.done:
                try:
                    loop.epoch_loop.advance(loop._data_fetcher)
                    self.has_run = True
                    raise_on_sigterm(self._trainer)
                    return self._loss
                except StopIteration as end:  # no more batches, or `on_train_batch_start` has ended the epoch
                    stopped = end if self._is_in_step else None
            self._start_next_epoch()
        if stopped is not None:
            raise RuntimeError(
                "`training_step` raised StopIteration: an iterator of its own has come to its end. Start it anew there."
            ) from stopped
        raise ValueError(
            "A range test needs training batches, but the training data ended at once, twice. Check the data loader,"
            " and that `on_train_batch_start` does not return -1 at every start of an epoch."
        )

    def skip_batch(self) -> None:
        """Read the next batch, in the next epoch's order if this epoch is over, and leave it."""
        fetcher = self._loop._data_fetcher
        for _ in range(2):
            if not fetcher.done:
                with contextlib.suppress(StopIteration):
                    batch = next(fetcher)
                    if hasattr(batch, "__next__"):  # a step that reads its batches itself is given the iterator
                        next(batch)
                    return
            self._start_next_epoch()

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
        if not self._data.can_validate:
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

    @property
    def _is_in_step(self) -> bool:
        """Whether a training step has started and not ended; it may be what has read the data to their end."""
        progress, fetcher = self._loop.epoch_loop.batch_progress.current, self._loop._data_fetcher
        reads_itself = any(kind.__name__ == "_DataLoaderIterDataFetcher" for kind in type(fetcher).__mro__)
        return progress.started > progress.processed and not (reads_itself and fetcher.done)

    def _start_next_epoch(self) -> None:
        self._epoch += 1
        start_epoch(self._loop._combined_loader, self._epoch)
        self._trainer._logger_connector.epoch_end_reached()
        self._loop.epoch_loop.reset()
        iter(self._loop._data_fetcher)


@contextmanager
def trial(
    trainer: Trainer,
    module: LightningModule,
    snapshot_device: torch.device | str | None = None,
    start_hooks: bool = False,
    awake: Sequence[type | str] = (),
) -> Iterator[Trial]:
    """Training batches that leave no trace, whether the ``with`` block ends well or with any exception.

    To be called in ``on_train_start``. The module's batch hooks run as in training; its hooks of epochs and of the
    whole training do not, nor do other callbacks, loggers and learning rate schedulers. An error in the first step is
    given the names of the user's callbacks that sleep.

    Args:
        trainer: The trainer that is about to train.
        module: Its LightningModule.
        snapshot_device: Where copies of the tensors are kept; by default beside the originals.
        start_hooks: Whether to run, and undo, the module's ``on_train_start`` and ``on_train_epoch_start`` too.
        awake: Classes of callbacks that stay awake. Their hooks of the start and of batches run, and are undone.

    Raises:
        RuntimeError: If this Lightning lacks a private name that the trial needs.
        StartHooksNeededError: If the first batch fails as it might for want of ``start_hooks``.
    """
    require_known_lightning(trainer)
    strategy = trainer.strategy
    loop = _shadow(trainer)
    with ExitStack() as undo:
        undo.enter_context(buckets_as_at_first(strategy.model))
        snapshot = undo.enter_context(Snapshot(snapshot_device, users=(module, trainer.datamodule)))  # type: ignore[attr-defined]
        undo.enter_context(in_shards(module))
        data = TrialData(trainer, module, snapshot)
        batches = Trial(trainer, loop, data)
        data.remember()
        _remember(snapshot, trainer, module)
        unlogged: dict[str, Any] = {f"_{kind}_metrics": {} for kind in ("progress_bar", "logged", "callback")}
        snapshot.replace(trainer._logger_connector, _first_loop_iter=None, _current_fx=None, **unlogged)
        snapshot.replace(trainer.state, stage=trainer.state.stage)
        accumulated = accumulated_batches(trainer)[0]
        snapshot.replace(trainer, fit_loop=loop, should_stop=False, accumulate_grad_batches=accumulated)
        asleep = sleepers(trainer, awake)
        put_to_sleep(snapshot, trainer, module, _Listener(batches), awake)
        undo.enter_context(data.read(loop))
        # a trainer that detects anomalies would end the job at the NaN that a range test is out to find
        undo.enter_context(torch.autograd.set_detect_anomaly(False))
        undo.enter_context(torch.enable_grad())
        try:
            if awake:
                wake_up(trainer)
            if start_hooks:
                for name in _START_HOOKS:
                    getattr(module, name)()
            yield batches
        except Exception as error:
            if batches.has_run:
                raise
            if asleep:
                add_note(error, f"Callbacks that sleep during the range test, unless `awake` names them: {asleep}.")
            if isinstance(error, AttributeError) and not start_hooks and _overrides_start_hooks(module):
                raise StartHooksNeededError(*error.args) from error
            raise


def can_end_in_a_step(trainer: Trainer) -> bool:
    """Whether a step that fails halfway is undone as well: a module in shards may be left with its layers gathered."""
    if trainer.world_size == 1:
        return not is_deepspeed(trainer) and not is_in_shards(trainer.strategy.model)
    return isinstance(trainer.strategy.model, DistributedDataParallel)


def _shadow(trainer: Trainer) -> Any:
    """A fresh fit loop of the trainer's own class."""
    real = trainer.fit_loop
    loop = type(real)(trainer, min_epochs=0, max_epochs=real.max_epochs)
    loop.epoch_loop = type(real.epoch_loop)(trainer, min_steps=None, max_steps=real.max_steps)
    loop.epoch_loop._results = _moved_once(loop.epoch_loop._results)
    return loop


def _overrides_start_hooks(module: LightningModule) -> bool:
    """Whether a module does something of its own when training or an epoch starts."""
    base = next(cls for cls in type(module).__mro__ if cls.__name__ == "LightningModule")
    return any(is_overridden(name, module, base) for name in _START_HOOKS)


class _Listener(Callback):
    """The trial's own callback, behind all others."""

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


def _remember(snapshot: Snapshot, trainer: Trainer, module: LightningModule) -> None:
    """Everything outside the loops that training batches can change."""
    strategy = trainer.strategy
    snapshot.add(module)
    if is_deepspeed(trainer):
        remember_zero(snapshot, strategy.model)
    for part in (*torch_optimizers(trainer), *lr_schedulers(trainer)):
        snapshot.add(part)
    for part in (strategy, strategy.precision_plugin, *strategy._lightning_optimizers):
        snapshot.add_attributes(part)
    snapshot.add(getattr(strategy.precision_plugin, "scaler", None))
    snapshot.add([getattr(strategy, name, None) for name in ("_ddp_comm_state", "_model_averager")])
    if isinstance(strategy.model, DistributedDataParallel):  # with hooks of users, and their states
        snapshot.add(strategy.model)
    snapshot.add(trainer.datamodule)  # type: ignore[attr-defined]


def _moved_once(results: Any) -> Any:
    """Results that move to a device once, not with every value that is logged, which takes longer than to log it."""

    def set_item(self: dict[str, Any], key: str, item: Any) -> None:
        item.to = functools.lru_cache(1)(item.to)
        dict.__setitem__(self, key, item)

    return type("MovedOnce", (type(results),), {"__setitem__": set_item})(training=True)
