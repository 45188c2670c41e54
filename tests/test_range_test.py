"""What the range test records and finds, against known answers."""

import math
import random
import warnings

import pytest
import torch
from pytorch_lightning import LightningModule, seed_everything
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, GradientAccumulationScheduler, LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger, Logger
from torch.utils.data import DataLoader

import lightning_clr.second_sweep
from lightning_clr import Cyclic, LRBounds, LRRangeTest, OneCycle, RangeTestResult, lr_range_test
from support.data import loader
from support.models import Bounded, Flat, Hot, Noisy, Plain, Scheduled, WithLR
from support.searches import two_sweeps
from support.training import LRs, quiet_trainer


class Bowl(LightningModule):
    """The loss a * w**2 / 2, on which gradient descent diverges exactly when lr > 2 / a."""

    def __init__(self, a=1.0):
        super().__init__()
        self.a = a
        self.w = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def training_step(self, batch, batch_idx):
        return self.a * self.w**2 / 2

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def nothing_but(n=1000):
    return DataLoader(range(n))


def test_recorded_loss_turns_at_the_stability_limit():
    """On the bowl the loss falls up to lr = 2/a and rises from there on, to within one step of the sweep."""
    for a in (1.0, 4.0, 100.0):
        result = lr_range_test(quiet_trainer(), Bowl(a), nothing_but(), min_lr=1e-3 / a, max_lr=100 / a, num_steps=100)

        lowest = result.lrs[result.values.index(min(result.values))]
        ratio = result.lrs[1] / result.lrs[0]
        assert 2 / a <= lowest <= 2 / a * ratio


def test_bounds_lie_below_the_stability_limit():
    result = lr_range_test(quiet_trainer(), Bowl(), nothing_but(), min_lr=1e-4, max_lr=100)

    assert 0 < result.bounds.base_lr < result.bounds.max_lr < 2


def test_sweep_hits_both_ends_exactly():
    result = lr_range_test(quiet_trainer(), Bowl(), nothing_but(), min_lr=1e-4, max_lr=1.0, num_steps=5 * 8 + 1)

    assert (result.lrs[0], result.lrs[10], result.lrs[-1]) == (1e-4, pytest.approx(1e-3), 1.0)


def test_linear_sweep_rises_by_equal_amounts():
    result = lr_range_test(quiet_trainer(), Bowl(), nothing_but(), min_lr=0.1, max_lr=1.0, num_steps=10, mode="linear")

    assert result.lrs == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def test_constant_loss_stays_constant():
    """Neither smoothing nor accumulation bends a flat curve."""
    for accumulated in (1, 4):
        trainer = quiet_trainer(accumulate_grad_batches=accumulated)

        result = lr_range_test(trainer, Flat(), loader(), num_steps=20)

        assert result.values == [4.0] * len(result.lrs)
        assert result.smoothed == pytest.approx([4.0] * len(result.lrs))


def test_accumulation_averages_its_window():
    """Two batches of eight, accumulated, record what one batch of sixteen does."""
    whole = lr_range_test(quiet_trainer(), fixed(), loader(batch_size=16), num_steps=30, max_lr=0.5)
    halves = lr_range_test(
        quiet_trainer(accumulate_grad_batches=2), fixed(), loader(batch_size=8), num_steps=30, max_lr=0.5
    )

    assert halves.values == pytest.approx(whole.values, rel=1e-5)


def fixed():
    torch.manual_seed(0)
    return Plain()


def test_accumulation_scheduler_counts_from_the_first_epoch():
    """Each of the ten steps sees four batches."""
    seen = []

    class Counting(Plain):
        def training_step(self, batch, batch_idx):
            seen.append(batch_idx)
            return super().training_step(batch, batch_idx)

    test = LRRangeTest(num_steps=10, stop_factor=None)
    trainer = quiet_trainer(max_steps=1, callbacks=[test, GradientAccumulationScheduler({0: 4, 1: 2})])
    with pytest.warns(UserWarning, match="still improving"):
        trainer.fit(Counting(), loader(64 * 16))

    assert len(seen) == 10 * 4 + 4


def test_short_data_start_over():
    """Four batches an epoch are enough for a hundred steps."""
    result = lr_range_test(quiet_trainer(), Plain(), loader(64), num_steps=100, stop_factor=None)

    assert len(result.lrs) == 100


def test_nan_ends_the_sweep():
    result = lr_range_test(quiet_trainer(), Hot(), loader(), min_lr=1e-3, max_lr=10.0, num_steps=41, stop_factor=None)

    assert math.isnan(result.values[-1])
    assert not any(map(math.isnan, result.values[:-1]))
    assert 0.1 < result.lrs[-1] < 0.13


def test_divergence_ends_the_sweep():
    """Long before lr = 1000 the loss is above four times its lowest value."""
    result = lr_range_test(quiet_trainer(), Plain(), loader(), max_lr=1000.0)

    assert len(result.lrs) < 100
    assert math.isfinite(result.values[-1])


def test_no_stop_factor_runs_to_the_end():
    result = lr_range_test(quiet_trainer(), Plain(), loader(), max_lr=30.0, stop_factor=None)

    assert result.lrs[-1] == 30.0


def test_logged_metric_is_recorded():
    """The training loss by its logged name gives the same curve as the training loss itself."""
    by_default = lr_range_test(quiet_trainer(), fixed(), loader(), num_steps=20)
    by_name = lr_range_test(quiet_trainer(), fixed(), loader(), num_steps=20, monitor="train_loss")

    assert by_name.values == by_default.values


class OnEpoch(Plain):
    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("epoch_loss", loss, on_step=False, on_epoch=True)
        return loss


def test_metric_logged_per_epoch_is_read_at_every_step():
    """Each value is that of its own step, not the mean since the epoch began."""
    by_default = lr_range_test(quiet_trainer(), OnEpoch(), loader(), num_steps=20)
    torch.manual_seed(1)
    by_name = lr_range_test(quiet_trainer(), OnEpoch(), loader(), num_steps=20, monitor="epoch_loss")

    assert len(set(by_name.values)) == 20
    assert by_name.values[0] == pytest.approx(math.log(3), rel=0.3)
    assert len(by_default.values) == 20


def test_validation_metric_is_evaluated_every_few_steps():
    """Steps 0, 4, 8, ... and the last."""
    result = lr_range_test(
        quiet_trainer(), Plain(), loader(), loader(64), monitor="val_acc", monitor_mode="max", val_every_n_steps=4,
        min_lr=1e-6, max_lr=10.0, num_steps=39,
    )  # fmt: skip

    assert len(result.lrs) == 11
    assert result.summary().count("(39 ") == 1
    assert (result.lrs[0], result.lrs[-1]) == (1e-6, 10.0)
    assert all(0 <= value <= 1 for value in result.values)


class Groups(Plain):
    def configure_optimizers(self):
        groups = [{"params": self.body.parameters(), "lr": 0.01}, {"params": self.head.parameters()}]
        return torch.optim.SGD(groups, lr=0.1)


def test_groups_keep_their_ratio_in_the_sweep_and_after_it():
    swept = []

    class Spied(Groups):
        def training_step(self, batch, batch_idx):
            swept.append([group["lr"] for group in self.optimizers().param_groups])
            return super().training_step(batch, batch_idx)

    lrs = LRs()
    quiet_trainer(max_steps=1, callbacks=[LRRangeTest(num_steps=50, max_lr=30.0), lrs]).fit(Spied(), loader())

    assert all(body == pytest.approx(0.1 * head) for body, head in swept)
    assert swept[0][1] == 1e-6
    assert lrs.of_groups[0][0] == pytest.approx(0.1 * lrs.of_groups[0][1])


def test_both_bounds_reach_the_schedule_of_the_same_fit():
    """The first step runs at base_lr, the peak is max_lr."""
    test, lrs = LRRangeTest(), LRs()
    module = Scheduled(schedule=Cyclic(step_size=5, cycle_momentum=False))
    trainer = quiet_trainer(max_epochs=2, callbacks=[test, lrs])
    trainer.fit(module, loader())

    assert lrs.of_groups[0] == [test.result.bounds.base_lr]
    assert module.lr_bounds == test.result.bounds
    assert module.lr_schedulers().bounds == test.result.bounds


def test_cyclic_schedule_peaks_at_max_lr():
    test = LRRangeTest()
    peaks = []

    class Spied(Scheduled):
        def on_train_batch_start(self, batch, batch_idx):
            peaks.append(self.optimizers().param_groups[0]["lr"])

    quiet_trainer(max_epochs=1, callbacks=[test]).fit(Spied(schedule=Cyclic(step_size=4)), loader())

    assert peaks[-16:][4] == pytest.approx(test.result.bounds.max_lr, rel=1e-12)


def test_inconclusive_test_keeps_the_configured_learning_rate():
    lrs = LRs()
    trainer = quiet_trainer(max_steps=1, callbacks=[LRRangeTest(num_steps=20), lrs])

    with pytest.warns(UserWarning, match="is the same at every learning rate.*configured learning rate is kept"):
        trainer.fit(Flat(), loader())

    assert lrs.of_groups[0] == [0.1]


def test_each_training_is_told_that_there_are_no_bounds():
    """Python shows a warning once in a process; a loop of trainings would go on unnoticed."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(2):
            quiet_trainer(max_steps=1, callbacks=[LRRangeTest(num_steps=20)]).fit(Flat(), loader())

    assert sum("no bounds" in str(one.message) for one in told) == 2


def test_without_bounds_the_schedule_says_where_it_goes():
    class FlatScheduled(Flat, Scheduled):
        """1cycle from a twenty-fifth of the configured learning rate."""

    with pytest.warns(UserWarning, match=r"is kept: OneCycle goes between 0\.004 and 0\.1\.$"):
        quiet_trainer(max_steps=1, callbacks=[LRRangeTest(num_steps=20)]).fit(FlatScheduled(), loader())


@pytest.mark.parametrize("max_lr", [1e-5, 1e-3])
def test_range_far_below_all_learning_says_so(max_lr):
    """Short runs learn a thousandth there, surely and in vain."""
    for seed in range(3):
        torch.manual_seed(seed)
        result = lr_range_test(quiet_trainer(max_steps=240), Scheduled(), loader(480, shuffle=True), max_lr=max_lr)

        assert result.bounds is None
        assert "raise `max_lr`" in result.reason


class Shallow(Bowl):
    """Stable up to lr = 67, so still improving at the usual end of the sweep."""

    def __init__(self):
        super().__init__(a=0.03)


def test_usual_sweep_goes_on_while_the_curve_improves():
    """At the same pace, past 10, and finds the bounds there."""
    result = lr_range_test(quiet_trainer(), Shallow(), nothing_but())

    assert len(result.lrs) > 100
    assert result.lrs[99] == pytest.approx(10.0)
    assert result.lrs[110] / result.lrs[109] == pytest.approx(result.lrs[1] / result.lrs[0])
    assert 10 < result.bounds.max_lr < 67


def test_sweep_ends_where_the_user_says():
    """A `max_lr` of one's own is kept, and so is the end without a stop factor."""
    own = lr_range_test(quiet_trainer(), Shallow(), nothing_but(), max_lr=9.0)
    unstopped = lr_range_test(quiet_trainer(), Shallow(), nothing_but(), stop_factor=None)

    assert (own.lrs[-1], unstopped.lrs[-1]) == (9.0, 10.0)
    assert "still improving" in own.reason


LRS = [10 ** (step / 10 - 5) for step in range(60)]
DROWNED = [2 + random.Random(step).gauss(0, 0.1) for step in range(60)]


def test_range_in_which_nothing_is_learnt_has_no_bounds():
    """The same sixteen batches come round and round, and their losses differ."""
    result = lr_range_test(quiet_trainer(max_epochs=1), Plain(), loader(), max_lr=1e-5, budget=1000)

    assert (result.bounds, len(result.lrs)) == (None, 50)
    assert result.runs
    assert len(result.closer_lrs) == 400


def test_noisy_curve_gets_a_second_sweep():
    """Four times as many steps over fewer decades, from before anything happens."""
    seed_everything(1)
    test = LRRangeTest(search=two_sweeps)
    trainer = quiet_trainer(max_steps=1, callbacks=[test])
    trainer.fit(Noisy(), loader())
    result = test.result

    assert len(result.lrs) <= 100 < len(result.closer_lrs) <= 400
    assert result.closer_lrs[1] / result.closer_lrs[0] < result.lrs[1] / result.lrs[0]
    assert result.bounds is not None
    assert f"({len(result.lrs)} + {len(result.closer_lrs)} steps, train loss)" in result.summary()
    assert RangeTestResult.from_state_dict(test.state_dict()["result"]) == result


@pytest.mark.parametrize(
    "arguments", [{"closer_look": False}, {"stop_factor": None}, {"mode": "linear"}], ids=["off", "fixed", "linear"]
)
def test_no_closer_look_where_none_is_wanted(arguments):
    """It can be turned off; a test that runs to its end, or is linear, is one sweep."""
    seed_everything(1)

    assert lr_range_test(quiet_trainer(), Noisy(), loader(), **arguments).closer_lrs == []


def test_second_sweep_ends_once_its_bounds_are_settled(monkeypatch):
    """Its steps are those of the whole sweep, and nearly so are its bounds."""

    def found():
        seed_everything(4)
        return lr_range_test(quiet_trainer(), Bounded(), loader(), stop_factor=1000.0, search=two_sweeps)

    early = found()
    monkeypatch.setattr(lightning_clr.second_sweep, "Settled", lambda *_: lambda curve: False)
    whole = found()
    length = len(early.closer_lrs)

    assert length < len(whole.closer_lrs)
    assert early.closer_values == whole.closer_values[:length]
    bounds = (whole.bounds.base_lr, whole.bounds.max_lr)
    assert (early.bounds.base_lr, early.bounds.max_lr) == pytest.approx(bounds, rel=0.1)


def test_closer_look_stays_within_the_limits_of_the_user():
    """Whatever else would be worth a look."""
    seed_everything(1)
    result = lr_range_test(quiet_trainer(), Noisy(), loader(), min_lr=0.02, max_lr=0.5)
    twice = lr_range_test(quiet_trainer(), Noisy(), loader(), min_lr=0.02, max_lr=50.0, search=two_sweeps)

    assert result.runs
    assert all(0.02 <= run.max_lr <= 0.5 for run in result.runs if run.max_lr)
    assert 0.02 <= twice.closer_lrs[0] < twice.closer_lrs[-1] <= 50.0


def test_sweep_runs_at_the_momentum_of_the_peak():
    """1cycle has 0.85 at max_lr; without a schedule the optimizer's own momentum is kept."""
    momenta = []

    class Spied(Plain):
        def training_step(self, batch, batch_idx):
            momenta.append(self.optimizers().param_groups[0]["momentum"])
            return super().training_step(batch, batch_idx)

    class SpiedScheduled(Scheduled, Spied):
        pass

    lr_range_test(quiet_trainer(), SpiedScheduled(), loader(), num_steps=10, stop_factor=None)
    lr_range_test(quiet_trainer(), Spied(), loader(), num_steps=10, stop_factor=None)

    assert set(momenta[:10]) == {0.85}
    assert set(momenta[10:]) == {0.9}


def test_fast_dev_run_skips_the_test():
    test = LRRangeTest()

    quiet_trainer(fast_dev_run=True, callbacks=[test]).fit(Plain(), loader())

    assert test.result is None


def test_callback_comes_first():
    """It acts before callbacks that look at the learning rate, wherever it stands in the list."""

    class Early(Callback):
        def on_train_start(self, trainer, pl_module):
            self.seen = trainer.callbacks[0]

    test, early = LRRangeTest(num_steps=10), Early()
    trainer = quiet_trainer(max_steps=1, callbacks=[early, test])
    with pytest.warns(UserWarning, match="LR range test"):
        trainer.fit(Flat(), loader())

    assert early.seen is test


def test_function_leaves_model_trainer_and_random_numbers_alone():
    """Training after it equals training without it."""

    def weights(tested):
        torch.manual_seed(0)
        module, trainer = Scheduled(schedule=OneCycle()), quiet_trainer(max_epochs=2)
        if tested:
            assert lr_range_test(trainer, module, loader(shuffle=True), loader(64)).bounds is not None
        torch.manual_seed(3)
        trainer.fit(module, loader(shuffle=True), loader(64))
        return [*module.parameters()], trainer.global_step

    (tested, steps), (untested, same_steps) = weights(True), weights(False)

    assert steps == same_steps == 32
    assert all(map(torch.equal, tested, untested))


def test_function_draws_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)

    module = Plain()
    torch.manual_seed(0)
    lr_range_test(quiet_trainer(), module, loader(shuffle=True))

    assert torch.equal(torch.rand(3), expected)


def test_function_takes_a_configured_trainer_with_logger_and_callbacks(tmp_path):
    """Nothing is written, and the trainer has its callbacks back."""
    trainer = quiet_trainer(logger=True, enable_checkpointing=True, callbacks=[LearningRateMonitor()])
    callbacks = list(trainer.callbacks)

    lr_range_test(trainer, Plain(), loader(), num_steps=30)

    assert trainer.callbacks == callbacks
    assert list(tmp_path.iterdir()) == []


def test_explicit_bounds_are_replaced_by_what_is_found():
    module = Scheduled(lr_bounds=LRBounds(1e-9, 1e-8))

    quiet_trainer(max_epochs=1, callbacks=[LRRangeTest()]).fit(module, loader())

    assert module.lr_bounds.max_lr > 1e-4


def test_later_fit_of_the_same_trainer_is_not_tested_again():
    test = LRRangeTest()
    trainer = quiet_trainer(max_epochs=1, callbacks=[test])
    trainer.fit(Plain(), loader())
    first = test.result
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module, loader())

    assert test.result is first


class KeepsLosses(Plain):
    """Lightning's own recipe for what an epoch collects."""

    def on_train_epoch_start(self):
        self.losses = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


def test_module_may_need_its_start_hooks():
    """They are run, and undone, in the trial: the real epoch has its own list."""
    module, test = KeepsLosses(), LRRangeTest()

    quiet_trainer(max_epochs=1, callbacks=[test]).fit(module, loader())

    assert test.result.bounds is not None
    assert len(module.losses) == 16


def test_error_of_the_module_is_shown_as_it_is():
    class Broken(KeepsLosses):
        def training_step(self, batch, batch_idx):
            return self.no_such_thing

    with pytest.raises(AttributeError, match="no_such_thing"):
        quiet_trainer(callbacks=[LRRangeTest()]).fit(Broken(), loader())


class Skips(Plain):
    """Skips every third batch, as Lightning allows."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx % 3 != 1 else None


def test_skipped_batches_are_no_points():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*returned `None`")  # Lightning's, once per process
        result = lr_range_test(quiet_trainer(), Skips(), loader(), num_steps=20)

    assert len(result.values) == 20
    assert all(map(math.isfinite, result.values))


@pytest.mark.usefixtures("little_garbage")
def test_finders_before_it_do_not_keep_it_from_running():
    """They load checkpoints of their own, which is no resuming."""
    test = LRRangeTest()

    class Sized(Plain):
        batch_size = 16

        def train_dataloader(self):
            return loader(batch_size=self.batch_size)

        def val_dataloader(self):
            return loader(64)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        finder = BatchSizeFinder(max_trials=2, steps_per_trial=1)
        quiet_trainer(max_epochs=1, callbacks=[test, finder]).fit(Sized())

    assert test.result.bounds is not None


def test_function_and_callback_accumulate_alike():
    """The accumulation of the trainer's callbacks counts in both."""
    found = []
    for call in ("function", "callback"):
        torch.manual_seed(0)
        module, test = fixed(), LRRangeTest(num_steps=20)
        trainer = quiet_trainer(max_epochs=1, callbacks=[GradientAccumulationScheduler({0: 4}), test])
        if call == "function":
            trainer.callbacks.remove(test)
            found.append(lr_range_test(trainer, module, loader(), num_steps=20).values)
        else:
            trainer.fit(module, loader())
            found.append(test.result.values)

    assert found[0] == found[1]


def test_function_undoes_what_callbacks_do_to_the_model():
    """A callback that freezes layers while it sets up finds them as they were."""

    class Freezes(Callback):
        def setup(self, trainer, pl_module, stage):
            pl_module.body.requires_grad_(False)

    module = Plain()
    lr_range_test(quiet_trainer(callbacks=[Freezes()]), module, loader())

    assert all(parameter.requires_grad for parameter in module.parameters())


class RefusesChanges(Logger):
    """As MLflow does."""

    name, version = "strict", 0

    def __init__(self):
        super().__init__()
        self.params = {}

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params):
        if params.keys() & self.params.keys():
            raise ValueError("Changing param values is not allowed.")
        self.params |= params


def test_logger_that_refuses_changes_is_warned_about():
    """The job goes on."""
    module, test = WithLR(), LRRangeTest()
    trainer = quiet_trainer(max_epochs=1, logger=RefusesChanges(), callbacks=[test])

    with pytest.warns(UserWarning, match="still shows the old lr: Changing param values is not allowed"):
        trainer.fit(module, loader())

    assert test.result.bounds is not None
    assert module.hparams.lr == 0.1, "or the module's next attempt to log it would be refused"


def test_logger_is_where_its_files_will_be():
    """Modules that write next to their logs find the folder in the trial too."""
    seen = set()

    class Writes(Plain):
        def training_step(self, batch, batch_idx):
            seen.add(self.logger.log_dir)
            return super().training_step(batch, batch_idx)

    quiet_trainer(max_steps=1, logger=CSVLogger("logs"), callbacks=[LRRangeTest()]).fit(Writes(), loader())

    assert len(seen) == 1
