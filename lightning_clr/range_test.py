"""Leslie Smith's LR range test as a Lightning callback and as a function."""

import inspect
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics.aggregation import MeanMetric

from lightning_clr.apply import apply_bounds, peak_lrs
from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require
from lightning_clr.packages import Callback, lightning_name
from lightning_clr.progress import progress_bar
from lightning_clr.result import RangeTestResult
from lightning_clr.scheduler import ScheduleLR
from lightning_clr.schedules import Sweep
from lightning_clr.snapshot import Snapshot
from lightning_clr.trial import Trial, end_of_fit, trial

_FEWEST_STEPS = 10
_PATIENCE = 100  # accumulation windows without an optimizer step


class LRRangeTest(Callback):
    """Finds both bounds of the learning rate before training starts, and hands them to the schedule.

    Real training steps with a rising learning rate are recorded and undone: training afterwards is bit for bit what it
    would have been had it been given the bounds from the start. They reach a :class:`ScheduleLR` (see
    :class:`CLRMixin`), torch's ``CyclicLR`` and ``OneCycleLR``; any other scheduler starts from ``max_lr``; without a
    scheduler the optimizer is given :func:`~lightning_clr.apply.constant_lr`. ``lr`` and ``learning_rate``
    hyper-parameters follow.

    The test does not run when training resumes from a checkpoint (bounds and curve come from there) nor under
    ``fast_dev_run``.

    Args:
        min_lr: Smallest learning rate of the sweep, that of its first step.
        max_lr: Largest learning rate of the sweep, that of its last step.
        num_steps: Length of the sweep in optimizer steps. Short data sets are gone through several times.
        mode: Whether the learning rate is multiplied (``"exponential"``) or raised (``"linear"``, Smith 2017, section
            3.3) by the same amount at each step.
        monitor: What is recorded: the training loss by default, or the name of anything the module logs in
            ``training_step`` or in validation.
        monitor_mode: Whether a lower (``"min"``) or a higher value (``"max"``, an accuracy) is better.
        stop_factor: End the sweep when the loss has risen above this multiple of its lowest value, and above its
            first; ``None`` runs to the end. NaN and infinity always end it. Metrics to be maximised do not.
        val_every_n_steps: How often to run validation when ``monitor`` is a validation metric, in optimizer steps.
        on_inconclusive: Warn and keep the configured learning rate when the curve does not tell the bounds, or raise.
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
        max_lr: float = 10.0,
        num_steps: int = 100,
        mode: Literal["exponential", "linear"] = "exponential",
        monitor: str | None = None,
        monitor_mode: Literal["min", "max"] = "min",
        stop_factor: float | None = 4.0,
        val_every_n_steps: int = 5,
        on_inconclusive: Literal["warn", "raise"] = "warn",
        snapshot_device: str | None = None,
    ) -> None:
        super().__init__()
        for name, lr in (("min_lr", min_lr), ("max_lr", max_lr)):
            require(name, lr, "be a positive, finite learning rate", lambda value: 0 < value < math.inf)
        require("min_lr", min_lr, f"be below `max_lr` ({max_lr})", lambda value: value < max_lr, "Swap the two.")
        require(
            "num_steps",
            num_steps,
            f"be a whole number of at least {_FEWEST_STEPS}",
            lambda n: n >= _FEWEST_STEPS and n == int(n),
            "A hundred steps are usual.",
        )
        require("mode", mode, 'be "exponential" or "linear"', lambda value: value in ("exponential", "linear"))
        if monitor is not None:
            require("monitor", monitor, "be the name of a logged metric", lambda name: name and isinstance(name, str))
        require("monitor_mode", monitor_mode, 'be "min" or "max"', lambda value: value in ("min", "max"))
        if stop_factor is not None:
            require("stop_factor", stop_factor, "be above 1", lambda factor: factor > 1, "Use None to never stop.")
        require(
            "val_every_n_steps", val_every_n_steps, "be a whole number of at least 1", lambda n: n >= 1 and n == int(n)
        )
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
        self.snapshot_device = snapshot_device
        self.result: RangeTestResult | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Come first among the callbacks, so that none has acted on the configured learning rate yet."""
        if stage == "fit":  # a new list: the present one is being iterated over
            trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Run the test and apply the bounds, unless training resumes or is a dry run."""
        if trainer.fast_dev_run:
            rank_zero_info("LR range test: skipped under `fast_dev_run`.")
        elif trainer.ckpt_path or trainer.global_step > 0:
            rank_zero_info("LR range test: skipped, since training resumes; the bounds in force are kept.")
        else:
            self.result = self.run(trainer, pl_module)
            self._use(trainer, pl_module, self.result)

    def run(self, trainer: Any, pl_module: Any) -> RangeTestResult:
        """Sweep the learning rate, undo the steps, and read the curve; for a trainer that is about to train.

        Raises:
            ValueError: If there is no optimizer with a learning rate to sweep, or ``monitor`` is never logged.
        """
        _require_sweepable(trainer)
        with (
            trial(trainer, pl_module, self.snapshot_device) as this,
            progress_bar(trainer, self.num_steps) as advance_bar,
        ):
            curve = _Recording(self, trainer, this)
            while not curve.ended:
                curve.record_step()
                advance_bar()
        return RangeTestResult.read(
            curve.lrs,
            curve.values,
            monitor=self.monitor or "train loss",
            monitor_mode=self.monitor_mode,
            mode=self.mode,
        )

    def state_dict(self) -> dict[str, Any]:
        """The result as plain numbers."""
        return {} if self.result is None else {"result": self.result.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the result from a checkpoint."""
        if "result" in state_dict:
            self.result = RangeTestResult.from_state_dict(state_dict["result"])

    def _use(self, trainer: Any, pl_module: Any, result: RangeTestResult) -> None:
        if result.bounds is None:
            if self.on_inconclusive == "raise":
                raise RuntimeError(result.summary())
            rank_zero_warn(f"{result.summary()}. The configured learning rate is kept.")
            return
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        configured_lr = apply_bounds(trainer.optimizers, schedulers, result.bounds)
        _update_hyperparameters(trainer, pl_module, result.bounds, configured_lr)
        rank_zero_info(result.summary())


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
        trainer: A trainer that has not trained yet. Its callbacks and loggers sleep meanwhile.
        model: The LightningModule.
        train_dataloaders: As in ``Trainer.fit``.
        val_dataloaders: As in ``Trainer.fit``; needed to monitor a validation metric.
        datamodule: As in ``Trainer.fit``.
        **kwargs: Arguments of :class:`LRRangeTest`.

    Returns:
        The curve, and the bounds or the reason why there are none.

    Raises:
        ValueError: If an argument is outside its range, or ``trainer`` is set to ``fast_dev_run``.
    """
    test = _OnlyTest(**kwargs)
    if trainer.fast_dev_run:
        raise ValueError("`lr_range_test` needs real steps, but the trainer is set to `fast_dev_run`. Turn it off.")
    callbacks, loggers, sanity_steps = trainer.callbacks, trainer.loggers, trainer.num_sanity_val_steps
    with Snapshot():  # of the random generators: setting up data and model draws from them
        try:
            bars = [bar for bar in [trainer.progress_bar_callback] if bar is not None]
            trainer.callbacks, trainer.num_sanity_val_steps = [test, *bars], 0
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


class _OnlyTest(LRRangeTest):
    """Ends ``fit`` when the test is over."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self.result = self.run(trainer, pl_module)
        raise end_of_fit(trainer)


class _Recording:
    """A sweep in progress.

    Attributes:
        lrs: Learning rates recorded so far.
        values: What was monitored at each of them.
    """

    def __init__(self, test: LRRangeTest, trainer: Any, this: Trial) -> None:
        self.test = test
        self.trainer = trainer
        self.trial = this
        self.lrs: list[float] = []
        self.values: list[float] = []
        self.sweeps = _sweeps(trainer, test)
        self.step = 0
        self._validates = False
        self._lowest = math.inf
        self._mean = MeanMetric(sync_on_compute=False, nan_strategy="disable").to(trainer.strategy.root_device)
        this.on_optimizer_step = self._apply

    @property
    def ended(self) -> bool:
        """Whether the sweep is through, or has diverged."""
        return self.step >= self.test.num_steps or self._diverged()

    def record_step(self) -> None:
        """One optimizer step, over as many batches as it accumulates."""
        patience = _PATIENCE * self.trainer.accumulate_grad_batches
        for _ in range(patience):
            value = self._monitored(self.trial.run_batch())
            self._mean.update(value)
            if any(sweep.optimizer_stepped for sweep in self.sweeps):
                break
            if not math.isfinite(value):  # mixed precision skips the steps of a loss that has diverged
                break
        else:
            raise ValueError(
                f"A range test needs optimizer steps, but none was made in {patience} batches. Check that"
                " `training_step` steps the optimizer, or returns a loss for Lightning to do so."
            )
        if not self._validates:
            self._append(self._mean.compute())
            self._mean.reset()
        elif self.step % self.test.val_every_n_steps == 0 or self.step == self.test.num_steps - 1:
            self._append(self._logged(self.trial.validate()))
        self.step += 1
        for sweep in self.sweeps:
            sweep.step()

    def _append(self, value: Tensor) -> None:
        reduced = self.trainer.strategy.reduce(value, reduce_op="mean")  # one number, one decision on all ranks
        self.lrs.append(self.sweeps[0].schedule.lr(self.step, self.test.num_steps, self.sweeps[0].bounds))
        self.values.append(float(reduced))

    def _monitored(self, loss: Tensor | None) -> Tensor:
        """The value of the batch just run; a placeholder if validation is what counts."""
        if self.test.monitor is None:
            if loss is None:
                raise ValueError(
                    "The range test records the loss that `training_step` returns, but it returned none. Return it, or"
                    f" set `monitor` to one of the logged metrics: {sorted(self.trial.metrics)}."
                )
            return self._scalar(loss)
        logged = self.trial.metrics
        if self.test.monitor in logged:
            return self._scalar(logged[self.test.monitor])
        if self.step == 0 and not self._validates:
            self._validates = True
            logged |= self.trial.validate()
            self._logged(logged)
        return self._scalar(torch.zeros(()))

    def _logged(self, metrics: dict[str, Tensor]) -> Tensor:
        if self.test.monitor not in metrics:
            raise ValueError(
                f"`monitor` must be a metric that the module logs in `training_step` or in validation, got"
                f" {self.test.monitor!r}. Logged were: {sorted(metrics)}."
            )
        return self._scalar(metrics[self.test.monitor])

    def _scalar(self, value: Any) -> Tensor:
        scalar = torch.as_tensor(value, dtype=torch.float32, device=self.trainer.strategy.root_device)
        return scalar.detach().mean()

    def _apply(self) -> None:
        for sweep in self.sweeps:
            sweep.apply()

    def _diverged(self) -> bool:
        if not self.values:
            return False
        if not math.isfinite(self.values[-1]):
            return True
        if self.test.stop_factor is None or self.test.monitor_mode == "max":
            return False
        recent = statistics.median(self.values[-5:])  # a single noisy batch is no divergence
        self._lowest = min(self._lowest, recent)
        return recent > max(self._lowest + (self.test.stop_factor - 1) * abs(self._lowest), self.values[0])


def _sweeps(trainer: Any, test: LRRangeTest) -> list[ScheduleLR]:
    """The rising learning rate on every optimizer, group by group in the ratios that training will have."""
    peaks = peak_lrs(trainer.optimizers, [config.scheduler for config in trainer.lr_scheduler_configs])
    for optimizer, lrs in zip(trainer.optimizers, peaks, strict=True):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = group["lr"].fill_(lr) if isinstance(group["lr"], Tensor) else lr
    bounds = LRBounds(test.min_lr, test.max_lr)
    reference_lr = max(lr for lrs in peaks for lr in lrs)
    return [
        ScheduleLR(optimizer, Sweep(mode=test.mode), test.num_steps, bounds, reference_lr=reference_lr)
        for optimizer in trainer.optimizers
    ]


def _require_sweepable(trainer: Any) -> None:
    optimizers: Sequence[Optimizer] = trainer.optimizers
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if not groups or not all("lr" in group for group in groups):
        raise ValueError(
            "A range test sweeps the learning rate of the module's optimizers, but"
            f" {[type(optimizer).__name__ for optimizer in optimizers]} have none. Return an optimizer with `lr` from"
            " `configure_optimizers`, or remove `LRRangeTest`."
        )
    lrs = [float(group["lr"]) for group in groups]
    if not max(lrs) > 0:
        raise ValueError(f"A range test needs a positive `lr` in at least one parameter group, got {lrs}.")
    for optimizer in optimizers:
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise ValueError(
                f"A range test needs one evaluation per optimizer step, but {type(optimizer).__name__} drives the"
                " training step itself, several times a step. Choose another optimizer, or remove `LRRangeTest`."
            )
    if any(cls.__name__ == "DeepSpeedStrategy" for cls in type(trainer.strategy).__mro__):
        raise ValueError(
            "DeepSpeed keeps weights and optimizer states where a range test cannot restore them. Run the test with"
            " another strategy, and set the bounds it finds."
        )


def _update_hyperparameters(trainer: Any, pl_module: Any, bounds: LRBounds, configured_lr: float) -> None:
    """Make attributes and saved hyper-parameters tell what is in force."""
    truth = {"lr": configured_lr, "learning_rate": configured_lr, "lr_bounds": bounds}
    if hasattr(pl_module, "lr_bounds"):
        pl_module.lr_bounds = bounds
    for name in ("lr", "learning_rate"):
        if isinstance(getattr(pl_module, name, None), float):
            setattr(pl_module, name, configured_lr)
    changed = {name: value for name, value in truth.items() if name in pl_module.hparams}
    if changed:
        pl_module.hparams.update(changed)
        log: Callable[[Any], None]
        for log in [logger.log_hyperparams for logger in trainer.loggers]:
            log(pl_module.hparams)
