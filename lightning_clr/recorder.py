"""One plan carried out: the learning rate, the value of every step over all ranks, and when it ends."""

import collections
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from lightning_clr.apply import peak_lrs, peak_momentum
from lightning_clr.bounds import LRBounds
from lightning_clr.checks import add_note, require
from lightning_clr.curve import Curve
from lightning_clr.divergence import Divergence
from lightning_clr.lightning import Trainer, lr_schedulers, torch_optimizers
from lightning_clr.plan import Plan, ShortRunPlan, SweepPlan
from lightning_clr.scheduler import ScheduleLR, in_place, require_numeric_lrs
from lightning_clr.schedules import OneCycle, Schedule, Sweep
from lightning_clr.settings import FEWEST_POINTS, Settings
from lightning_clr.short_runs import ShortRun
from lightning_clr.steps import StepWatch, may_skip
from lightning_clr.trial.deepspeed import require_known_zero
from lightning_clr.trial.loop import Trial, can_end_in_a_step
from lightning_clr.trial.signals import is_sigterm
from lightning_clr.trial.votes import Votes

_PATIENCE = 100  # accumulation windows without an optimizer step
_LAG = 1  # a GPU, and other ranks, are given this many steps more before they are asked, so that nobody waits


class Recorder:
    """Carries out one sweep or short run, step by step, over all ranks.

    Args:
        plan: What is to be done.
        settings: What is recorded, and when the sweep ends early.
        trainer: The trainer that is about to train.
        batches: Where training batches come from.
        fewest_points: How many values must be recorded before an error of the model is taken for the end of the sweep.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        trainer: Trainer,
        batches: Trial,
        fewest_points: int = FEWEST_POINTS,
    ) -> None:
        self.plan = plan
        self.settings = settings
        self.trainer = trainer
        self.trial = batches
        self.lrs: list[float] = []
        self.values: list[float] = []
        self.schedulers = _schedulers(trainer, plan)
        self._steps = StepWatch(trainer, torch_optimizers(trainer))
        self._with_modes = [one for one in torch_optimizers(trainer) if callable(getattr(one, "train", None))]
        self.step = self._first_step = plan.num_skipped if isinstance(plan, ShortRunPlan) else 0
        self.validates = False  # whether a value takes a validation run, which is not made at every step
        self._skips = may_skip(trainer)
        self._fewest_points = fewest_points
        self._votes = Votes(trainer)
        self._ended = False
        self._ended_by = ""
        may_rise = settings.monitor_mode == "max" or isinstance(plan, ShortRunPlan)  # which may recover as its lr falls
        self._diverges = Divergence(None if may_rise else settings.stop_factor)
        mean = MeanMetric(nan_strategy="disable", sync_on_compute=False)
        self._window = mean.set_dtype(torch.float32).to(trainer.strategy.root_device)  # the batches since the last step
        self._unread = collections.deque[tuple[float, _Value]]()
        self._lag = _LAG if trainer.strategy.root_device.type == "cuda" or trainer.world_size > 1 else 0
        batches.on_optimizer_step = self._apply

    def record(self, after_step: Callable[[int], object] = lambda num_steps: None) -> Curve | ShortRun:
        """All steps until the plan is through, has diverged, is ended by itself, or by an error of the model.

        Args:
            after_step: Called after each step with the number of steps planned.

        Returns:
            What has been recorded.
        """
        if not self.lrs:
            for _ in range(self._first_step * self.trainer.accumulate_grad_batches):
                self.trial.skip_batch()
        while self.step < self.plan.num_steps and not self._ended:
            try:
                self._record_step()
            except (Exception, SystemExit) as error:
                if not self._ends_with(error):
                    raise
            else:
                self._read(0 if self.validates else self._lag)
            after_step(self.plan.num_steps)
        self._read()
        return self.short_run if isinstance(self.plan, ShortRunPlan) else self.curve

    def go_on(self, plan: SweepPlan, after_step: Callable[[int], object] = lambda num_steps: None) -> Curve | ShortRun:
        """The same sweep up to where the new plan ends; nothing more if it has diverged."""
        self.plan = plan
        for scheduler in self.schedulers:
            scheduler.total_steps = plan.num_steps
            scheduler.set_bounds(LRBounds(plan.min_lr, plan.max_lr))
        return self.record(after_step)

    @property
    def curve(self) -> Curve:
        """What a sweep has recorded so far."""
        mode = self.plan.mode if isinstance(self.plan, SweepPlan) else "exponential"
        steps = self.step if self.validates else 0
        return Curve(self.lrs, self.values, self.settings.monitor_mode, mode, self.validates, self._ended_by, steps)

    @property
    def short_run(self) -> ShortRun:
        """What counts of a short run: its last values, or none if it has not come to its end."""
        plan, is_through = self.plan, self.step == self.plan.num_steps and not self._ended
        assert isinstance(plan, ShortRunPlan)
        judged = self.values[-plan.num_judged :] if is_through else [math.nan]
        worst = (max if self.settings.monitor_mode == "min" else min)(self.values, default=math.nan)
        return ShortRun(plan.max_lr, judged, plan.num_steps, self.settings.monitor_mode, plan.falls, worst)

    @property
    def _lr(self) -> float:
        """The learning rate of the present step."""
        first = self.schedulers[0]
        return first.schedule.lr(self.step, self.plan.num_steps, first.bounds)

    def _ends_with(self, error: BaseException) -> bool:
        """Whether an error in a step is the end of the sweep: there is enough to read, and no rank is without it.

        The sweep may have ended before this step, which was made since values are read late.
        """
        if is_sigterm(error):
            return False
        self._read()
        if not self._ended and len(self.values) < self._fewest_points:
            add_note(error, f"This was step {self.step + 1} of the range test, at a learning rate of {self._lr:.2g}.")
            return False
        if not (can_end_in_a_step(self.trainer) and self._votes.all_fail(self.step)):
            return False
        if not self._ended:
            self.lrs.append(self._lr)
            self.values.append(math.nan)
            self._ended, self._ended_by = True, _in_one_line(error)
        return True

    def _record_step(self) -> None:
        """One optimizer step, over as many batches as it accumulates."""
        patience = _PATIENCE * self.trainer.accumulate_grad_batches
        for _ in range(patience):
            for optimizer in self._with_modes:  # schedule-free ones, switched in hooks that do not run in a trial
                optimizer.train()  # type: ignore[attr-defined]
            with self._steps:
                loss = self.trial.run_batch()
            value = self._monitored(loss)
            if value is not None:
                self._window.update(value)
            if not self._have_stepped(value):
                continue
            if self._take_value():
                break
        else:
            raise ValueError(
                f"A range test needs optimizer steps, but none was made in {patience} batches. Check that"
                " `training_step` steps the optimizer, or returns a loss for Lightning to do so."
            )
        self.step += 1
        for scheduler in self.schedulers:
            scheduler.step()

    def _have_stepped(self, value: Tensor | None) -> bool:
        """Whether the optimizers have stepped, or would have if mixed precision had not seen infinity on some rank."""
        if self._steps.stepped:
            return True
        if not self._skips:
            return False
        mean = _Value(value, self.trainer)
        return mean.exists and not math.isfinite(float(mean))

    def _take_value(self) -> bool:
        """Take the value of this step, if one is due; whether the step counts, since no rank may have a loss."""
        if not self.validates:
            value = self._window.compute() if self._window.update_called else None
            self._window.reset()
        elif self._validation_is_due():
            value = self._logged(self.trial.validate())
            self._require_enough_validations()
        else:
            return True
        read = _Value(value, self.trainer)
        if not read.exists:
            if not self.values and not self._unread:
                raise ValueError(
                    "The range test records the loss that `training_step` returns, but it returned none. Return it, or"
                    f" set `monitor` to one of the logged metrics: {sorted(self.trial.names)}."
                )
            return False
        self._unread.append((self._lr, read))
        return True

    def _read(self, lag: int = 0) -> None:
        """Read the values of all steps but the last ``lag``, which the device or other ranks may still be at.

        The lag is the same on all ranks, so that they end together; steps after the one that ends it leave no values.
        """
        while len(self._unread) > lag and not self._ended:
            lr, value = self._unread.popleft()
            self.lrs.append(lr)
            self.values.append(float(value))
            ends_when = self.plan.ends_when if isinstance(self.plan, SweepPlan) else None
            diverged = self._diverges(self.values[-1])
            self._ended = diverged or (ends_when is not None and ends_when(self.curve))

    def _monitored(self, loss: Tensor | None) -> Tensor | None:
        """The value of the batch just run; ``None`` without one, a placeholder if validation is what counts."""
        if self.settings.monitor is None:
            return None if loss is None else self._scalar(loss)
        value = self.trial.logged(self.settings.monitor)
        if value is not None:
            return self._scalar(value)
        self.validates |= self.step == self._first_step
        return torch.zeros((), device=self.trainer.strategy.root_device)

    def _validation_is_due(self) -> bool:
        """Every few steps of a sweep, and after the last; a short run is judged by a single one."""
        if self.step == self.plan.num_steps - 1:
            return True
        return isinstance(self.plan, SweepPlan) and self.step % self.settings.val_every_n_steps == 0

    def _require_enough_validations(self) -> None:
        if isinstance(self.plan, ShortRunPlan):
            return
        points = 1 + math.ceil((self.plan.num_steps - 1) / self.settings.val_every_n_steps)
        require(
            "val_every_n_steps",
            self.settings.val_every_n_steps,
            f"give at least {FEWEST_POINTS} points",
            lambda _: points >= FEWEST_POINTS,
            f"Validating that often in {self.plan.num_steps} steps gives {points}: lower it, or raise `num_steps`.",
        )

    def _logged(self, metrics: dict[str, Tensor]) -> Tensor:
        name, names = self.settings.monitor, self.trial.names | metrics.keys()
        if name in metrics:
            return self._scalar(metrics[name])
        hint = " It has no value for a step: call it, or log it with `on_epoch=True`." if name in names else ""
        raise ValueError(
            f"`monitor` must be a metric that the module logs in `training_step` or in validation, got {name!r}. Logged"
            f" were: {sorted(names)}.{hint}"
        )

    def _scalar(self, value: Any) -> Tensor:
        scalar = torch.as_tensor(value, dtype=torch.float32, device=self.trainer.strategy.root_device)
        return scalar.detach().mean()

    def _apply(self) -> None:
        for scheduler in self.schedulers:
            scheduler.apply()


def _in_one_line(error: BaseException) -> str:
    """An error's class and the beginning of its message."""
    message = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {message[:100]}" if message else type(error).__name__


class _Value:
    """A number on its way from the device and from the other ranks.

    To read it waits for the step that made it, not for later ones. It is the plain mean over the ranks that have one,
    whatever their batch sizes, as with gradients, so that all decide alike.
    """

    def __init__(self, value: Tensor | None, trainer: Trainer) -> None:
        self._is_mine = value is not None
        self._wait: Callable[[], object] = lambda: None
        self._sent = value if trainer.world_size == 1 else self._sum(value, trainer.strategy)
        if self._sent is not None and self._sent.is_cuda:
            stream = torch.cuda.current_stream(self._sent.device)
            self._sent = self._sent.to("cpu", non_blocking=True)
            arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrival.record(stream)
            self._wait = arrival.synchronize

    def _sum(self, value: Tensor | None, strategy: Any) -> Any:
        """Over the ranks, their values and the number of them: one small tensor; a strategy's ``reduce`` makes two."""
        sums = torch.zeros(2, dtype=torch.float32, device=strategy.root_device)
        if value is not None:
            sums = torch.stack([value, torch.ones_like(value)])
        if not _has_process_group():
            return strategy.reduce(sums, reduce_op="sum")
        work = torch.distributed.all_reduce(sums, async_op=True)
        if sums.device.type == "cpu":
            self._wait = work.wait
        else:
            work.wait()  # the stream does, with NCCL, not the host
        return sums

    @property
    def exists(self) -> bool:
        """Whether any rank has a value; only a rank that has none itself waits for the others' answer."""
        return self._is_mine or (self._sent is not None and bool(self._arrived()[1]))

    def __float__(self) -> float:
        arrived = self._arrived()
        return float(arrived[0] / arrived[1] if arrived.ndim else arrived)

    def _arrived(self) -> Any:
        self._wait()
        return self._sent


def _has_process_group() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class _Still(Schedule):
    """Learns nothing."""

    def lr(self, step: int, total_steps: int | None, bounds: LRBounds) -> float:
        return 0.0


class _RiseAndStay(Sweep):
    """Comes to ``max_lr`` in a quarter of the steps, and stays there."""

    def lr(self, step: int, total_steps: int | None, bounds: LRBounds) -> float:
        return super().lr(step, math.ceil((total_steps or 1) / 4), bounds)


def _schedulers(trainer: Trainer, plan: Plan) -> list[ScheduleLR]:
    """What the plan does to the learning rate of every optimizer, in the ratios of training at its ``max_lr``."""
    schedulers, optimizers = lr_schedulers(trainer), torch_optimizers(trainer)
    peaks = peak_lrs(optimizers, schedulers)
    for optimizer, lrs in zip(optimizers, peaks, strict=True):
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            group["lr"] = in_place(group["lr"], lr)
            group.pop("initial_lr", None)  # the ratios are those at the peak
    all_lrs = [lr for lrs in peaks for lr in lrs]
    reference_lr = max(all_lrs)
    if not reference_lr > 0:
        raise ValueError(
            f"A range test needs a positive `lr` in at least one parameter group, got {all_lrs}. Any value will do: the"
            " groups' ratios are what counts."
        )
    return [_scheduler(optimizer, schedulers, plan, reference_lr) for optimizer in optimizers]


def _scheduler(optimizer: Any, schedulers: Sequence[Any], plan: Plan, reference_lr: float) -> ScheduleLR:
    momentum = peak_momentum(optimizer, schedulers)
    if isinstance(plan, SweepPlan):
        schedule: Schedule = Sweep(mode=plan.mode, peak_momentum=momentum)
        bounds = LRBounds(plan.min_lr, plan.max_lr)
    else:
        one_cycle = _one_cycle(schedulers, momentum)
        bounds = one_cycle.bounds_below(plan.max_lr or 1.0)
        held = _RiseAndStay(mode="linear", peak_momentum=momentum)
        schedule = _Still() if plan.max_lr == 0 else one_cycle if plan.falls else held
    return ScheduleLR(optimizer, schedule, plan.num_steps, bounds, reference_lr=reference_lr)


def _one_cycle(schedulers: Sequence[Any], momentum: float | None) -> OneCycle:
    """The 1cycle that training will follow, or one with the momentum that its schedule has at ``max_lr``."""
    for scheduler in schedulers:
        if isinstance(scheduler, ScheduleLR) and isinstance(scheduler.schedule, OneCycle):
            return scheduler.schedule
    if momentum is None:
        return OneCycle(cycle_momentum=False)
    return OneCycle(base_momentum=momentum, max_momentum=max(momentum, OneCycle.max_momentum))


def require_sweepable(trainer: Trainer) -> None:
    """Refuse, before the first step, what cannot be swept.

    Raises:
        ValueError: If there is no optimizer with a learning rate that is a number, or a strategy whose state cannot be
            restored, or that cannot add up numbers of all ranks.
    """
    optimizers = torch_optimizers(trainer)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    if not groups or not all("lr" in group for group in groups):
        raise ValueError(
            "A range test sweeps the learning rate of the module's optimizers, but"
            f" {[type(optimizer).__name__ for optimizer in optimizers]} have none. Return an optimizer with `lr` from"
            " `configure_optimizers`, or remove `LRRangeTest`."
        )
    require_numeric_lrs(optimizers, "A range test sweeps")
    require_known_zero(trainer)
    if trainer.world_size > 1 and not _has_process_group():
        _require_reduction(trainer)


def _require_reduction(trainer: Trainer) -> None:
    """Refuse a strategy of its own kind that does not add up, since all ranks must decide alike."""
    strategy, counted = trainer.strategy, None
    try:
        counted = float(strategy.reduce(torch.ones((), device=strategy.root_device), reduce_op="sum"))
    except Exception as error:
        problem: object = error
    else:
        problem = counted
    if counted != trainer.world_size:
        raise ValueError(
            f'A range test needs the mean over all {trainer.world_size} ranks, but `reduce(…, reduce_op="sum")` of'
            f" {type(strategy).__name__}, which does without torch.distributed, gives {problem!r} for a one from each."
            " Choose another strategy, or remove `LRRangeTest` and set the bounds."
        )
