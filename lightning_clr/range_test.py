"""Leslie Smith's LR range test as a Lightning callback and as a function."""

import math
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from lightning_clr.apply import apply_bounds, peak_lrs
from lightning_clr.bounds import LRBounds
from lightning_clr.checks import require, warn_each_time
from lightning_clr.curve import Curve
from lightning_clr.hyperparameters import Told, never_an_error, update_hyperparameters
from lightning_clr.lightning import (
    Callback,
    LightningModule,
    Trainer,
    callbacks_of_kind,
    known_optimizer_steps,
    lr_schedulers,
    package_of,
    torch_optimizers,
)
from lightning_clr.loggers import log_hyperparameters, log_result
from lightning_clr.plan import Plan, SweepPlan
from lightning_clr.progress import progress_bar
from lightning_clr.reading import Reading
from lightning_clr.recorder import Recorder, require_sweepable
from lightning_clr.result import RangeTestResult
from lightning_clr.scheduler import own_schedulers
from lightning_clr.search import Conversation, Search, default_search
from lightning_clr.settings import FEWEST_POINTS, Settings
from lightning_clr.short_runs import ShortRun
from lightning_clr.trial.asleep import changers_of_batches, is_one_of, set_up_only
from lightning_clr.trial.loop import StartHooksNeededError, trial
from lightning_clr.trial.private import end_of_fit, has_hparams_of_config, logs_hyperparameters
from lightning_clr.trial.processes import let_processes_end_early, send_home
from lightning_clr.trial.signals import signals_held
from lightning_clr.trial.snapshot import Snapshot


class LRRangeTest(Callback):
    """Finds both bounds of the learning rate before training starts, and hands them to the schedule.

    Real training steps are recorded and undone: first a sweep, Smith's test, with a rising learning rate, then a few
    short trainings around what it shows. Training afterwards is bit for bit what it would have been had it been given
    the bounds from the start. They reach a :class:`ScheduleLR` (see
    :class:`CLRMixin`), torch's ``CyclicLR`` and ``OneCycleLR``; any other scheduler starts from ``max_lr``; without a
    scheduler the optimizer is given :func:`~lightning_clr.apply.constant_lr`. ``lr`` and ``learning_rate``
    hyper-parameters follow. The trainer's loggers are told the bounds, or why there are none, and the curve.

    The test does not run when training resumes from a checkpoint (bounds and curve come from there) nor under
    ``fast_dev_run``.

    Args:
        min_lr: Smallest learning rate of the sweep, that of its first step.
        max_lr: Largest learning rate of the sweep, that of its last step. If it is left at 10 and the loss still
            improves there, or has not moved yet, the sweep goes on at the same pace, up to 1000.
        num_steps: Length of the sweep in optimizer steps; by default a sixth of the training's, from 50 to 100. Short
            data sets are gone through several times.
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
        closer_look: Whether to look closer at what the sweep shows. Three to six short trainings follow it, by 1cycle,
            of an eighth of the training's steps (24 to 125) each, all from the untrained weights and on the same
            batches; where these learn nothing, a second, slower sweep of up to 400 steps. Only after exponential sweeps
            that may end early.
        snapshot_device: Where the module's tensors are kept meanwhile; by default beside the originals.
        search: What to measure and how to read it, instead of :func:`~lightning_clr.search.default_search`. Its module
            has two others, Smith's own and fastai's, and says how to write one.
        awake: Classes of callbacks, or their names, that stay awake during the test, such as one that mixes batches.
            Their hooks of batches run in their place, and what they have changed is put back. All others sleep: they
            can be looked up, and their hooks do nothing.
        budget: How many optimizer steps the test takes at most, in all. By default as many as the training that
            follows, but no fewer than a sweep needs (130); a thousand where the training has no known end. Most tests
            take two thirds of that in short trainings, and some 600 steps in long ones.

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
        min_lr: float = Settings.min_lr,
        max_lr: float = Settings.max_lr,
        num_steps: int | None = Settings.num_steps,
        mode: Literal["exponential", "linear"] = Settings.mode,
        monitor: str | None = Settings.monitor,
        monitor_mode: Literal["min", "max"] = Settings.monitor_mode,
        stop_factor: float | None = Settings.stop_factor,
        val_every_n_steps: int = Settings.val_every_n_steps,
        on_inconclusive: Literal["warn", "raise"] = "warn",
        closer_look: bool = Settings.closer_look,
        snapshot_device: str | None = None,
        search: Search | None = None,
        awake: Sequence[type | str] | None = None,
        budget: int | None = Settings.budget,
    ) -> None:
        super().__init__()
        self.settings = Settings(
            min_lr=min_lr,
            max_lr=max_lr,
            num_steps=num_steps,
            mode=mode,
            monitor=monitor,
            monitor_mode=monitor_mode,
            stop_factor=stop_factor,
            val_every_n_steps=val_every_n_steps,
            closer_look=closer_look,
            budget=budget,
        )
        if snapshot_device is not None:
            require("snapshot_device", snapshot_device, 'name a torch device, such as "cpu"', _is_device)
        require("on_inconclusive", on_inconclusive, 'be "warn" or "raise"', lambda value: value in ("warn", "raise"))
        if search is not None:
            rule = "be a function of the settings, see lightning_clr.search"
            require("search", search, rule, callable, error=TypeError)
        if awake is not None:
            rule = "be classes of callbacks, or their names"
            awake = [awake] if isinstance(awake, type | str) else awake
            require(
                "awake", awake, rule, lambda kinds: all(isinstance(kind, type | str) for kind in kinds), error=TypeError
            )
        self.awake = awake
        self.on_inconclusive = on_inconclusive
        self.snapshot_device = snapshot_device
        self.search: Search = search or default_search
        self.result: RangeTestResult | None = None
        self.key = uuid.uuid4().hex  # in all processes of a job
        self._lr = math.nan  # that the module was told
        self._module: Callable[[], LightningModule | None] | None = None  # that the result is of
        self._resumes = False
        self._configured_lrs: list[list[Any]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Come first among the callbacks, so that none has acted on the configured learning rate yet.

        What was found for another module is forgotten, before a checkpoint may bring what was found for this one.
        """
        if stage == "fit":  # a new list: the present one is being iterated over
            if self._module is not None and self._module() is not pl_module:
                self.result, self._lr = None, math.nan
            self._module = weakref.ref(pl_module)
            trainer.callbacks = [self, *(callback for callback in trainer.callbacks if callback is not self)]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn whether training resumes, before other callbacks load checkpoints of their own or set the lr."""
        self._resumes = bool(trainer.ckpt_path)
        if callbacks_of_kind(trainer, "LearningRateFinder"):  # which makes all groups alike, and misleads schedulers
            optimizers = torch_optimizers(trainer)
            self._configured_lrs = [[group["lr"] for group in one.param_groups] for one in optimizers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the test and apply the bounds, unless training resumes or is a dry run."""
        if trainer.strategy.restore_checkpoint_after_setup:  # such strategies load only after `on_fit_start`
            self._resumes |= bool(trainer.ckpt_path)
        interrupted = trainer.global_step == 0 and self.result is None  # by what made the checkpoint, if there is one
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            rank_zero_info("LR range test: skipped under `fast_dev_run`.")
        elif self._resumes and not interrupted:
            rank_zero_info("LR range test: skipped, since training resumes; the learning rates in force are kept.")
            self._update_hyperparameters(trainer, pl_module)
        elif trainer.global_step > 0:
            rank_zero_info(
                "LR range test: skipped, since this trainer has trained before; make a new one to test again."
            )
        else:
            with signals_held(trainer):  # until a checkpoint would hold the bounds
                self.result = self.run(trainer, pl_module)
                self._hand_over(trainer, pl_module, self.result)
        send_home(trainer, self.key, self.state_dict())

    def receive(self, trainer: Trainer, news: dict[str, Any]) -> None:
        """Take, in the process that has launched others, what they have found."""
        self.load_state_dict(news)
        if self.result is not None and self.result.bounds is not None:
            self._module = weakref.ref(trainer.lightning_module)
            self._update_module(trainer.lightning_module, self.result.bounds)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_module": None}  # a weak reference cannot be pickled

    def run(self, trainer: Trainer, pl_module: LightningModule) -> RangeTestResult:
        """Measure, undo all steps, and read the curves; for a trainer that is about to train.

        Raises:
            ValueError: If there is no optimizer with a learning rate to sweep, ``monitor`` is never logged, or
                ``awake`` names no callback of the trainer.
        """
        require_sweepable(trainer)
        self._check_awake(trainer)
        for optimizer, lrs in zip(torch_optimizers(trainer), self._configured_lrs, strict=False):
            for group, lr in zip(optimizer.param_groups, lrs, strict=False):
                group["lr"] = lr
        try:
            return self._measure(trainer, pl_module)
        except StartHooksNeededError:
            return self._measure(trainer, pl_module, start_hooks=True)

    def _check_awake(self, trainer: Trainer) -> None:
        """Refuse a name that no callback has; warn of callbacks that change batches, unless the user has thought of it.

        Raises:
            ValueError: If ``awake`` names no callback of the trainer.
        """
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for kind in self.awake or ():
            if not any(is_one_of(callback, [kind]) for callback in callbacks):
                names = [type(callback).__name__ for callback in callbacks]
                raise ValueError(
                    f"`awake` must name classes of the trainer's callbacks, got {kind!r}. They are {names}."
                )
        changers = changers_of_batches(trainer) if self.awake is None else []
        if changers:
            rank_zero_warn(
                f"The callbacks {changers} have an `on_train_batch_start`, which is not called during the range test:"
                " if it changes batches, the steps of the test are not those of training. Name those that do,"
                f" `LRRangeTest(awake=[{changers[0]}])`, or say that none does, `awake=[]`."
            )

    def _measure(self, trainer: Trainer, pl_module: LightningModule, start_hooks: bool = False) -> RangeTestResult:
        """Carry out what the search plans, each plan in a trial of its own, until it returns a reading."""
        settings = replace(self.settings, training_steps=_training_steps(trainer))
        search, curves, runs = self.search(settings), list[Curve](), list[ShortRun]()
        answer = _answer(search)
        while isinstance(answer, Plan):
            with (
                progress_bar(trainer, answer.num_steps) as advance_bar,  # first: the trainer's bar sleeps in a trial
                trial(trainer, pl_module, self.snapshot_device, start_hooks, self.awake or ()) as batches,
            ):
                needed = 0 if curves else FEWEST_POINTS
                recorder = Recorder(answer, settings, trainer, batches, needed)
                recorded = recorder.record(advance_bar)
                answer = _answer(search, recorded)
                while isinstance(answer, SweepPlan) and answer.goes_on:
                    recorded = recorder.go_on(answer, advance_bar)
                    answer = _answer(search, recorded)
            if isinstance(recorded, Curve):
                curves.append(recorded)
            else:
                runs.append(recorded)
        if not isinstance(answer, Reading) or not curves:
            raise TypeError(
                "`search` must yield a SweepPlan at least once and return a Reading, but it"
                f" returned {answer!r} after {len(curves) + len(runs)} plans. See lightning_clr.search."
            )
        return RangeTestResult.of(curves, answer, settings.monitored, runs)

    def state_dict(self) -> dict[str, Any]:
        """The result, and the learning rate that the module was told, as plain numbers."""
        return {} if self.result is None else {"result": self.result.state_dict(), "lr": self._lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the result from a checkpoint."""
        if "result" in state_dict:
            self.result = RangeTestResult.from_state_dict(state_dict["result"])
            self._lr = state_dict["lr"]

    def _hand_over(self, trainer: Trainer, pl_module: LightningModule, result: RangeTestResult) -> None:
        if result.bounds is not None:
            self._lr = apply_bounds(torch_optimizers(trainer), lr_schedulers(trainer), result.bounds)
            self._update_hyperparameters(trainer, pl_module)
            rank_zero_info(result.summary())
        with _loggers(trainer) as loggers:
            log_result(loggers, result)
        if result.bounds is None:
            if self.on_inconclusive == "raise":
                raise RuntimeError(result.summary())
            if trainer.is_global_zero:  # also if an earlier training in this process was told the same
                warn_each_time(f"{result.summary()}. {_configured(trainer)}")

    def _update_hyperparameters(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the module and its hyper-parameters know the bounds in force, and say so if they do not."""
        if self.result is None or self.result.bounds is None:
            return
        told, refusals = self._update_module(pl_module, self.result.bounds), dict[str, str]()
        if logs_hyperparameters(pl_module):
            with _loggers(trainer) as loggers:
                refusals = log_hyperparameters(loggers, told.changed)
        if trainer.strategy.broadcast(refusals):  # or whoever logs the hyper-parameters next would meet the error
            told.take_back(pl_module)
        problem = _untold(pl_module, told, refusals)
        if problem:
            say = rank_zero_warn if told.has_hparams else rank_zero_info  # which claim to be what training was given
            say(f"LR range test: {problem}. The test has set {self._lr:.4g}.")

    def _update_module(self, pl_module: LightningModule, bounds: LRBounds) -> Told:
        in_config = False
        with never_an_error():
            in_config = has_hparams_of_config(pl_module)
        return update_hyperparameters(pl_module, bounds, self._lr, in_config)


def _configured(trainer: Trainer) -> str:
    """What training goes on with where no bounds are found."""
    own = own_schedulers(lr_schedulers(trainer))
    if own:
        name, bounds = type(own[0].schedule).__name__, own[0].bounds
        what = f"{name} goes between {bounds.base_lr:.2g} and {bounds.max_lr:.2g}"
    else:
        peaks = peak_lrs(torch_optimizers(trainer), lr_schedulers(trainer))
        what = f"{max(lr for lrs in peaks for lr in lrs):.4g}"
    return f"The configured learning rate is kept: {what}."


def _untold(pl_module: LightningModule, told: Told, refusals: dict[str, str]) -> str:
    """Who does not tell the learning rate in force, if anybody."""
    problems = [f"{name} still shows the old {', '.join(told.changed)}: {error}" for name, error in refusals.items()]
    if refusals:
        problems.append("the module's hyper-parameters are left as they are, too")
    if told.left:
        problems.append(f"left as they are, being no plain numbers or not to be written: {', '.join(told.left)}")
    if not told.is_known:
        problems.append(f"{type(pl_module).__name__} has no attribute or hyper-parameter to write the learning rate to")
    return "; ".join(problems)


def lr_range_test(
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
    **kwargs: Any,
) -> RangeTestResult:
    """Only the range test: nothing is trained, logged or written, and the model is as before.

    Args:
        trainer: A trainer that has not trained yet. Its loggers sleep meanwhile, and write nothing; its callbacks set
            up (they may accumulate gradients, or freeze layers), and sleep from then on.
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
    return only_test(LRRangeTest(**kwargs), trainer, model, train_dataloaders, val_dataloaders, datamodule)


def only_test(
    test: LRRangeTest,
    trainer: Trainer,
    model: LightningModule,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    datamodule: Any = None,
) -> RangeTestResult:
    """What :func:`lr_range_test` does, with the settings of a callback."""
    package_of(trainer)  # refuses what is no trainer
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError("`lr_range_test` needs real steps, but the trainer is set to `fast_dev_run`. Turn it off.")
    # setting up data and model draws random numbers, fills attributes and lazy layers; callbacks may freeze layers
    with Snapshot(users=(model, datamodule), on_write=True) as snapshot:
        snapshot.add(model)
        snapshot.add(datamodule)
        snapshot.add(train_dataloaders)  # which may be a data module, too
        only = _OnlyTest(test, snapshot)
        set_up_only(snapshot, trainer, only)
        let_processes_end_early(snapshot, trainer)
        trainer.fit(model, train_dataloaders, val_dataloaders, datamodule)
    if only.result is None:
        raise ValueError(
            "The range test could not start: the trainer has nothing to train on (check `limit_train_batches`,"
            " `max_epochs` and `max_steps`), or has trained before."
        )
    return only.result


def _answer(search: Conversation, recorded: Curve | ShortRun | None = None) -> Any:
    """What a search says to what was recorded: the next plan, or what it returns at last."""
    try:
        return next(search) if recorded is None else search.send(recorded)
    except StopIteration as end:
        return end.value


@contextmanager
def _loggers(trainer: Trainer) -> Iterator[list[Any]]:
    """The trainer's loggers, on the one rank that logs; random numbers that they draw are not missing afterwards."""
    with Snapshot():
        yield trainer.loggers if trainer.is_global_zero else []


def _training_steps(trainer: Trainer) -> int | None:
    """How long training will be: as a schedule has been told, or else as the trainer is configured."""
    told = [scheduler.total_steps for scheduler in own_schedulers(lr_schedulers(trainer))]
    return told[0] if told and told[0] is not None else known_optimizer_steps(trainer)


def _is_device(name: Any) -> bool:
    try:
        return isinstance(name, str) and torch.device(name) is not None
    except RuntimeError:
        return False


class _OnlyTest(Callback):
    """Ends ``fit`` when the test is over."""

    def __init__(self, test: LRRangeTest, snapshot: Snapshot | None) -> None:
        self.test = test
        self.key = test.key
        self.snapshot = snapshot
        self.result: RangeTestResult | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A spawned process has nothing of the one that launched it to put back."""
        return {**vars(self), "snapshot": None}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        type(self.test).on_fit_start(self.test, trainer, pl_module)  # which sleeps if it is among the callbacks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            with signals_held(trainer), nullcontext() if self.snapshot is None else self.snapshot.lent():
                self.result = self.test.run(trainer, pl_module)
            send_home(trainer, self.key, self.result.state_dict())
        raise end_of_fit(trainer)

    def receive(self, trainer: Trainer, news: dict[str, Any]) -> None:
        self.result = RangeTestResult.from_state_dict(news)
