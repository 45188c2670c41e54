"""Leslie Smith's LR range test as a Lightning callback and as a function."""

import copy
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_clr.apply import apply_bounds, update_hyperparameters
from lightning_clr.checks import require
from lightning_clr.curve import FEWEST_POINTS, NOTHING_HAPPENED, STILL_IMPROVING, Settling, closer_range
from lightning_clr.loggers import log_hyperparameters, log_result
from lightning_clr.packages import Callback, callbacks_of_kind, lightning_name, package_of
from lightning_clr.progress import progress_bar
from lightning_clr.result import RangeTestResult
from lightning_clr.snapshot import Snapshot
from lightning_clr.sweep import SweepRecording, require_sweepable
from lightning_clr.trial import end_of_fit, logs_hyperparameters, overrides_start_hooks, signals_held, trial
from lightning_clr.zero import torch_optimizers

_USUAL_MAX_LR = 10.0
_UTMOST_LR = 1000.0
_CLOSER_STEPS = 4  # length of the second sweep over that of the first
_MOST_CLOSER_STEPS = 400  # unless the first has more


class LRRangeTest(Callback):
    """Finds both bounds of the learning rate before training starts, and hands them to the schedule.

    Real training steps with a rising learning rate are recorded and undone: training afterwards is bit for bit what it
    would have been had it been given the bounds from the start. They reach a :class:`ScheduleLR` (see
    :class:`CLRMixin`), torch's ``CyclicLR`` and ``OneCycleLR``; any other scheduler starts from ``max_lr``; without a
    scheduler the optimizer is given :func:`~lightning_clr.apply.constant_lr`. ``lr`` and ``learning_rate``
    hyper-parameters follow. The trainer's loggers are told the bounds, or why there are none, and the curve.

    The test does not run when training resumes from a checkpoint (bounds and curve come from there) nor under
    ``fast_dev_run``.

    Args:
        min_lr: Smallest learning rate of the sweep, that of its first step.
        max_lr: Largest learning rate of the sweep, that of its last step. If it is left at 10 and the loss still
            improves there, or has not moved yet, the sweep goes on at the same pace, up to 1000.
        num_steps: Length of the sweep in optimizer steps. Short data sets are gone through several times.
        mode: Whether the learning rate is multiplied (``"exponential"``) or raised (``"linear"``, Smith 2017, section
            3.3) by the same amount at each step.
        monitor: What is recorded: the training loss by default, or the name of anything the module logs in
            ``training_step`` or in validation, by the names Lightning gives (``acc`` is the value of the step where
            there are ``acc_step`` and ``acc_epoch``). A torchmetrics object that ``training_step`` only updates has no
            value for a step, unless it is logged with ``on_epoch=True``.
        monitor_mode: Whether a lower (``"min"``) or a higher value (``"max"``, an accuracy) is better.
        stop_factor: End the sweep when the loss has risen above this multiple of its lowest value, and above its
            first; ``None`` runs to the end, and no further. NaN and infinity always end it, metrics to be maximised do
            not.
        val_every_n_steps: How often to run validation when ``monitor`` is a validation metric, in optimizer steps.
        on_inconclusive: Warn and keep the configured learning rate when the curve does not tell the bounds, or raise.
        closer_look: Whether to sweep once more where the first sweep hardly rises above its noise: over fewer decades
            and four times as many steps (400, if the first has more than 100; as many, if it has more than 400), around
            the learning rate at which training starts to move the loss. The second sweep ends early when its bounds
            stand still. Only for exponential sweeps that may end early and record a value at every step.
        snapshot_device: Where the module's tensors are kept meanwhile; by default beside the originals.

    Attributes:
        result: The :class:`RangeTestResult`, ``None`` before the test.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> LRRangeTest(min_lr=1.0, max_lr=0.1)
        Traceback (most recent call last):
        ...
        ValueError: `min_lr` must be below `max_lr` (0.1), got 1.0. Swap the two.

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, https://arxiv.org/abs/1506.01186, section 3.3.
    """

    def __init__(
        self,
        min_lr: float = 1e-6,
        max_lr: float = _USUAL_MAX_LR,
        num_steps: int = 100,
        mode: Literal["exponential", "linear"] = "exponential",
        monitor: str | None = None,
        monitor_mode: Literal["min", "max"] = "min",
        stop_factor: float | None = 4.0,
        val_every_n_steps: int = 5,
        on_inconclusive: Literal["warn", "raise"] = "warn",
        closer_look: bool = True,
        snapshot_device: str | None = None,
    ) -> None:
        super().__init__()
        for name, lr in (("min_lr", min_lr), ("max_lr", max_lr)):
            require(name, lr, "be a positive, finite learning rate", lambda value: 0 < value < math.inf)
        require("min_lr", min_lr, f"be below `max_lr` ({max_lr})", lambda value: value < max_lr, "Swap the two.")
        require(
            "num_steps",
            num_steps,
            f"be a whole number of at least {FEWEST_POINTS}",
            lambda n: n >= FEWEST_POINTS and n == int(n),
            "A hundred steps are usual.",
        )
        require("mode", mode, 'be "exponential" or "linear"', lambda value: value in ("exponential", "linear"))
        if monitor is not None:
            rule = "be the name of a logged metric"
            require("monitor", monitor, rule, lambda name: isinstance(name, str), error=TypeError)
            require("monitor", monitor, rule, len)
        require("monitor_mode", monitor_mode, 'be "min" or "max"', lambda value: value in ("min", "max"))
        if stop_factor is not None:
            require("stop_factor", stop_factor, "be above 1", lambda factor: factor > 1, "Use None to never stop.")
        require(
            "val_every_n_steps", val_every_n_steps, "be a whole number of at least 1", lambda n: n >= 1 and n == int(n)
        )
        if snapshot_device is not None:
            require("snapshot_device", snapshot_device, 'name a torch device, such as "cpu"', _is_device)
        require("on_inconclusive", on_inconclusive, 'be "warn" or "raise"', lambda value: value in ("warn", "raise"))
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.num_steps = num_steps
        self.mode = mode
        self.monitor = monitor
        self.monitor_mode = monitor_mode
        self.stop_factor = stop_factor
        self.val_every_n_steps = val_every_n_steps
        self.on_inconclusive = on_inconclusive
        self.closer_look = closer_look
        self.snapshot_device = snapshot_device
        self.result: RangeTestResult | None = None
        self._lr = math.nan  # that the module was told
        self._resumes = False
        self._configured_lrs: list[list[Any]] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Come first among the callbacks, so that none has acted on the configured learning rate yet."""
        if stage == "fit":  # a new list: the present one is being iterated over
            trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Learn whether training resumes, before other callbacks load checkpoints of their own or set the lr."""
        self._resumes = bool(trainer.ckpt_path)
        if callbacks_of_kind(trainer, "LearningRateFinder"):  # which makes all groups alike, and misleads schedulers
            optimizers = torch_optimizers(trainer)
            self._configured_lrs = [[group["lr"] for group in one.param_groups] for one in optimizers]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Run the test and apply the bounds, unless training resumes or is a dry run."""
        if trainer.strategy.restore_checkpoint_after_setup:  # such strategies load only after `on_fit_start`
            self._resumes |= bool(trainer.ckpt_path)
        interrupted = trainer.global_step == 0 and self.result is None  # by what made the checkpoint, if there is one
        if trainer.fast_dev_run:
            rank_zero_info("LR range test: skipped under `fast_dev_run`.")
        elif self._resumes and not interrupted:
            rank_zero_info("LR range test: skipped, since training resumes; the learning rates in force are kept.")
            self._tell(trainer, pl_module)
        elif trainer.global_step > 0:
            rank_zero_info(
                "LR range test: skipped, since this trainer has trained before; make a new one to test again."
            )
        else:
            with signals_held(trainer):  # until a checkpoint would hold the bounds
                self.result = self.run(trainer, pl_module)
                self._use(trainer, pl_module, self.result)

    def run(self, trainer: Any, pl_module: Any) -> RangeTestResult:
        """Sweep the learning rate, undo the steps, and read the curve; for a trainer that is about to train.

        Raises:
            ValueError: If there is no optimizer with a learning rate to sweep, or ``monitor`` is never logged.
        """
        require_sweepable(trainer)
        for optimizer, lrs in zip(torch_optimizers(trainer), self._configured_lrs, strict=False):
            for group, lr in zip(optimizer.param_groups, lrs, strict=False):
                group["lr"] = lr
        try:
            return self._sweep(trainer, pl_module)
        except AttributeError:
            if not overrides_start_hooks(pl_module):
                raise
        # the module may need what these hooks make, which have not run yet: run them too, and undo them with the rest
        return self._sweep(trainer, pl_module, start_hooks=True)

    def _sweep(self, trainer: Any, pl_module: Any, start_hooks: bool = False) -> RangeTestResult:
        def record(plan: LRRangeTest, first: RangeTestResult | None = None) -> tuple[SweepRecording, RangeTestResult]:
            with (
                progress_bar(trainer, plan.num_steps) as advance_bar,  # first: the trainer has no bar during a trial
                trial(trainer, pl_module, self.snapshot_device, start_hooks) as this,
            ):
                sweep = SweepRecording(plan, trainer, this)
                if first is not None:
                    sweep.is_settled = Settling((first.lrs, first.values), plan.monitor_mode, plan.num_steps)
                sweep.record(advance_bar)
                result = self._read(sweep, first)
                if self._may_go_on and result.reason.startswith((STILL_IMPROVING, NOTHING_HAPPENED)):
                    sweep.go_on(self._utmost_lr)
                    sweep.record(advance_bar)
                    result = self._read(sweep, first)
                return sweep, result

        sweep, result = record(self)
        closer = None if sweep.validates else self._closer(result)
        return result if closer is None else record(closer, result)[1]

    @property
    def _may_go_on(self) -> bool:
        return self.mode == "exponential" and self.stop_factor is not None

    @property
    def _utmost_lr(self) -> float:
        return _UTMOST_LR if self.max_lr == _USUAL_MAX_LR else self.max_lr

    def _closer(self, first: RangeTestResult) -> "LRRangeTest | None":
        """A test like this one over the part of the curve that is worth a closer look; ``None`` if there is none."""
        if not self.closer_look or not self._may_go_on:
            return None
        part = closer_range(first.lrs, first.values, self.monitor_mode)
        if part is None:
            return None
        closer = copy.copy(self)
        closer.min_lr, closer.max_lr = max(self.min_lr, part.base_lr), min(self._utmost_lr, part.max_lr)
        closer.num_steps = max(self.num_steps, min(_CLOSER_STEPS * self.num_steps, _MOST_CLOSER_STEPS))
        return closer

    def _read(self, sweep: SweepRecording, first: RangeTestResult | None) -> RangeTestResult:
        closer = None if first is None else (sweep.lrs, sweep.values)
        curve = first or sweep
        return RangeTestResult.read(
            curve.lrs,
            curve.values,
            closer,
            monitor=self.monitor or "train loss",
            monitor_mode=self.monitor_mode,
            mode=self.mode,
        )

    def state_dict(self) -> dict[str, Any]:
        """The result, and the learning rate that the module was told, as plain numbers."""
        return {} if self.result is None else {"result": self.result.state_dict(), "lr": self._lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the result from a checkpoint."""
        if "result" in state_dict:
            self.result = RangeTestResult.from_state_dict(state_dict["result"])
            self._lr = state_dict["lr"]

    def _use(self, trainer: Any, pl_module: Any, result: RangeTestResult) -> None:
        if result.bounds is not None:
            self._lr = apply_bounds(torch_optimizers(trainer), _schedulers(trainer), result.bounds)
            self._tell(trainer, pl_module)
            rank_zero_info(result.summary())
        with _loggers(trainer) as loggers:
            log_result(loggers, result)
        if result.bounds is None:
            if self.on_inconclusive == "raise":
                raise RuntimeError(result.summary())
            rank_zero_warn(f"{result.summary()}. The configured learning rate is kept.")

    def _tell(self, trainer: Any, pl_module: Any) -> None:
        """Let the module and its hyper-parameters know the bounds in force."""
        if self.result is not None and self.result.bounds is not None:
            changed = update_hyperparameters(pl_module, self.result.bounds, self._lr)
            if logs_hyperparameters(pl_module):
                with _loggers(trainer) as loggers:
                    log_hyperparameters(loggers, changed)


def lr_range_test(
    trainer: Any,
    model: Any,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    **kwargs: Any,
) -> RangeTestResult:
    """Only the range test: nothing is trained, logged or written, and the model is as before.

    Args:
        trainer: A trainer that has not trained yet. Its loggers and checkpoints sleep meanwhile; its other callbacks
            set up (they may accumulate gradients, or freeze layers), and sleep from then on.
        model: The LightningModule.
        train_dataloaders: As in ``Trainer.fit``.
        val_dataloaders: As in ``Trainer.fit``; needed to monitor a validation metric.
        datamodule: As in ``Trainer.fit``.
        **kwargs: Arguments of :class:`LRRangeTest`.

    Returns:
        The curve, and the bounds or the reason why there are none.

    Raises:
        ValueError: If an argument is outside its range, or ``trainer`` is set to ``fast_dev_run``.
        TypeError: If ``trainer`` is not a Trainer.
    """
    test = _OnlyTest(**kwargs)
    package = package_of(trainer)  # refuses what is no trainer
    if trainer.fast_dev_run:
        raise ValueError("`lr_range_test` needs real steps, but the trainer is set to `fast_dev_run`. Turn it off.")
    callbacks, loggers, sanity_steps = trainer.callbacks, trainer.loggers, trainer.num_sanity_val_steps
    asleep = [lightning_name(trainer, "callbacks", name) for name in ("Checkpoint", "ModelSummary")]
    if f"{package}.cli" in sys.modules:
        asleep.append(lightning_name(trainer, "cli", "SaveConfigCallback"))
    with Snapshot() as snapshot:  # setting up data and model draws random numbers; callbacks may freeze layers
        snapshot.add(model)
        try:
            trainer.callbacks = [test, *(callback for callback in callbacks if not isinstance(callback, tuple(asleep)))]
            trainer.num_sanity_val_steps = 0
            trainer.loggers = [lightning_name(trainer, "loggers.logger", "DummyLogger")()] if loggers else []
            trainer.fit(model, train_dataloaders, val_dataloaders, datamodule)
        finally:
            trainer.callbacks, trainer.loggers, trainer.num_sanity_val_steps = callbacks, loggers, sanity_steps
    if test.result is None:
        raise ValueError(
            "The range test could not start: the trainer has nothing to train on (check `limit_train_batches`,"
            " `max_epochs` and `max_steps`), or has trained before, or runs its processes by spawning."
        )
    return test.result


def _schedulers(trainer: Any) -> list[Any]:
    return [config.scheduler for config in trainer.lr_scheduler_configs]


@contextmanager
def _loggers(trainer: Any) -> Iterator[list[Any]]:
    """The trainer's loggers, on the one rank that logs; random numbers that they draw are not missing afterwards."""
    with Snapshot():
        yield trainer.loggers if trainer.is_global_zero else []


def _is_device(name: Any) -> bool:
    try:
        return isinstance(name, str) and torch.device(name) is not None
    except RuntimeError:
        return False


class _OnlyTest(LRRangeTest):
    """Ends ``fit`` when the test is over."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 0:
            with signals_held(trainer):
                self.result = self.run(trainer, pl_module)
        raise end_of_fit(trainer)
