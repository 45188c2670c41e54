"""What a range test shows in real loggers, read back from what they have written; nothing is sent anywhere."""

import csv
import json
import math
import random
import struct
import sys
import time
from pathlib import Path

import lightning.pytorch.loggers
import numpy
import pytest
import torch
import wandb
import yaml
from matplotlib import pyplot as plt
from mlflow.tracking import MlflowClient
from PIL import Image
from pytorch_lightning import seed_everything
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from wandb.proto.wandb_internal_pb2 import Record

from lightning_clr import LRBounds, LRRangeTest, OneCycle, RangeTestResult, ScheduleLR, lr_range_test
from lightning_clr.loggers import log_result
from support.data import loader
from support.models import Flat, Plain, Scheduled, WithDropout, WithLR
from support.training import quiet_trainer

LOGGERS = {
    "TensorBoard": lambda: TensorBoardLogger(Path("logs").absolute()),
    "wandb": lambda: WandbLogger(save_dir=Path("logs").absolute(), offline=True),
    "MLflow": lambda: MLFlowLogger(save_dir=Path("logs").absolute() / "mlruns"),
    "CSV": lambda: CSVLogger(Path("logs").absolute()),
}
EACH = [
    pytest.param(make, id=name, marks=[pytest.mark.processes] if name == "wandb" else [])
    for name, make in LOGGERS.items()
]
each_logger = pytest.mark.parametrize("make", EACH)


@pytest.fixture(autouse=True)
def _logs(monkeypatch):
    """A folder, and no run of wandb, which outlasts its logger and its setting of the mode."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path("logs").mkdir()
    yield
    wandb.finish()


def fitted(logger, module=Plain, **test):
    """The result of a range test before sixteen steps of training, every fourth of which is logged."""
    test = LRRangeTest(**{"num_steps": 40, "closer_look": False, **test})
    trainer = quiet_trainer(max_epochs=1, logger=logger, callbacks=[test], log_every_n_steps=4)
    trainer.fit(module(), loader())
    return test.result


def size(path):
    with Image.open(path) as picture:
        return picture.size


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def events(logger):
    return EventAccumulator(logger.log_dir, {"scalars": 0, "images": 0, "tensors": 0}).Reload()


def scalars(read, tag):
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_has_bounds_curve_text_and_picture():
    """The curve over the steps of the sweep, as its axis is made of integers."""
    result = fitted(logger := LOGGERS["TensorBoard"]())
    read = events(logger)

    assert scalars(read, "lr_range_test/base_lr") == [(0, pytest.approx(result.bounds.base_lr))]
    assert scalars(read, "lr_range_test/max_lr") == [(0, pytest.approx(result.bounds.max_lr))]
    assert scalars(read, "lr_range_test/lr") == [*enumerate(pytest.approx(lr) for lr in result.lrs)]
    assert scalars(read, "lr_range_test/value") == [*enumerate(pytest.approx(value) for value in result.values)]
    assert [step for step, _ in scalars(read, "train_loss")] == [3, 7, 11, 15]
    assert read.Tensors("lr_range_test/text_summary")[0].tensor_proto.string_val[0].decode() == result.summary()
    (picture,) = read.Images("lr_range_test/curve")
    assert (picture.width, picture.height) == (700, 450)


def hyperparameters_in_tensorboard(logger):
    found = HParamsPluginData.FromString(events(logger).PluginTagToContent("hparams")["_hparams_/session_start_info"])
    return {name: value.number_value for name, value in found.session_start_info.hparams.items()}


def test_tensorboard_has_bounds_as_hyperparameters():
    """Of a module without any, since TensorBoard reads the first ones only; the file has them in any case."""
    result = fitted(logger := LOGGERS["TensorBoard"]())
    bounds = {"lr_range_test/base_lr": result.bounds.base_lr, "lr_range_test/max_lr": result.bounds.max_lr}
    again = fitted(other := LOGGERS["TensorBoard"](), WithLR)

    assert hyperparameters_in_tensorboard(logger) == bounds
    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == bounds
    assert hyperparameters_in_tensorboard(other) == {"lr": 0.1}
    assert yaml.safe_load(Path(other.log_dir, "hparams.yaml").read_text()) == {
        "lr": again.bounds.max_lr / 2,
        "lr_range_test/base_lr": again.bounds.base_lr,
        "lr_range_test/max_lr": again.bounds.max_lr,
    }


# --- Weights & Biases -------------------------------------------------------------------------------------------------


def records():
    """All that wandb has written into the file of the only run, once its own process is through with it."""
    wandb.finish()
    (path,) = Path("logs").rglob("*.wandb")
    for _ in range(100):
        found = [*unframed(path.read_bytes())]
        if found and found[-1].HasField("exit"):
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{path} is not complete after ten seconds")


def unframed(data):
    """Records from the frames that LevelDB's logs have."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def items(changes):
    return {
        "/".join(change.nested_key) if change.nested_key else change.key: json.loads(change.value_json)
        for change in changes
    }


def wandb_run():
    """Its rows, and its configuration."""
    rows, config = [], {}
    for record in records():
        if record.HasField("history"):
            rows.append(items(record.history.item))
        config |= items(record.config.update)
    return rows, config


def table(name):
    (path,) = Path("logs").rglob(f"{name}_0_*.table.json")
    return json.loads(path.read_text())


@pytest.mark.processes
def test_wandb_has_bounds_curve_table_and_picture():
    """In its configuration, and in the first row of training, which is no further down for it."""
    result = fitted(LOGGERS["wandb"](), WithLR)
    rows, config = wandb_run()

    assert config["lr"] == result.bounds.max_lr / 2
    assert config["lr_range_test/base_lr"] == rows[0]["lr_range_test/base_lr"] == result.bounds.base_lr
    assert config["lr_range_test/max_lr"] == rows[0]["lr_range_test/max_lr"] == result.bounds.max_lr
    assert [(row["_step"], row["trainer/global_step"]) for row in rows] == [(0, 3), (1, 7), (2, 11), (3, 15)]
    assert table("table")["columns"] == ["step", "lr", "value", "smoothed", "sweep"]
    assert table("table")["data"] == [[*row] for row in result.rows()]
    assert [row[:3] for row in table("curve_table")["data"] if row[1] == "recorded"] == [
        [math.log10(lr), "recorded", value] for lr, value in zip(result.lrs, result.values, strict=True)
    ]
    assert rows[0]["lr_range_test/table/nrows"] == len(result.lrs)
    (picture,) = Path("logs").rglob("figure_0_*.png")
    assert size(picture) == (700, 450)


@pytest.mark.processes
def test_wandb_leaves_its_steps_to_whoever_gives_them():
    """Rows of the user's own at step 0 would be dropped if the test had taken that step."""

    class LogsByHand(Plain):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.trainer.loggers and isinstance(self.logger, WandbLogger):  # not in the test
                self.logger.experiment.log({"mine": batch_idx}, step=batch_idx)

    quiet_trainer(
        max_epochs=1, logger=LOGGERS["wandb"](), callbacks=[LRRangeTest(num_steps=40)], log_every_n_steps=100
    ).fit(LogsByHand(), loader())
    rows, _ = wandb_run()

    assert [row["mine"] for row in rows] == [*range(16)]
    assert [row["_step"] for row in rows] == [*range(16)]
    assert "lr_range_test/max_lr" in rows[0]


# --- MLflow -----------------------------------------------------------------------------------------------------------


def history(logger, name):
    return [(metric.step, metric.value) for metric in logger.experiment.get_metric_history(logger.run_id, name)]


def test_mlflow_has_bounds_curve_table_and_picture():
    """Its charts can take one metric as the axis of another."""
    result = fitted(logger := LOGGERS["MLflow"]())
    run = MlflowClient("file:logs/mlruns").get_run(logger.run_id)

    assert {name: float(value) for name, value in run.data.params.items()} == {
        "lr_range_test/base_lr": result.bounds.base_lr,
        "lr_range_test/max_lr": result.bounds.max_lr,
    }
    assert history(logger, "lr_range_test/max_lr") == [(0, result.bounds.max_lr)]
    assert history(logger, "lr_range_test/base_lr") == [(0, result.bounds.base_lr)]
    assert history(logger, "lr_range_test/lr") == [*enumerate(result.lrs)]
    assert history(logger, "lr_range_test/value") == [*enumerate(result.values)]
    assert [step for step, _ in history(logger, "train_loss")] == [3, 7, 11, 15]
    (artifacts,) = Path("logs").rglob("artifacts")
    assert_curve_and_picture(artifacts, result)


def test_mlflow_takes_long_curves():
    """More than a thousand numbers go in several batches."""
    logger = LOGGERS["MLflow"]()

    log_result([logger], RangeTestResult([0.1 + step for step in range(700)], [1.0] * 699 + [math.nan], reason="flat"))

    assert len(history(logger, "lr_range_test/lr")) == 700
    assert math.isnan(history(logger, "lr_range_test/value")[-1][1])


def test_mlflow_refuses_to_change_a_hyperparameter():
    """One warning says so, and the bounds are there."""
    logger = LOGGERS["MLflow"]()

    with pytest.warns(UserWarning, match="MLFlowLogger still shows the old lr: Changing param values") as told:
        fitted(logger, WithLR)

    params = MlflowClient("file:logs/mlruns").get_run(logger.run_id).data.params
    assert [*params] == ["lr", "lr_range_test/base_lr", "lr_range_test/max_lr"]
    assert len([warning for warning in told if "Logger" in str(warning.message)]) == 1


# --- CSV --------------------------------------------------------------------------------------------------------------


def assert_curve_and_picture(folder, result):
    with open(folder / "lr_range_test.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["lr"]) for row in rows] == result.lrs
    assert [float(row["value"]) for row in rows] == result.values
    assert size(folder / "lr_range_test.png") == (700, 450)


def test_csv_has_bounds_and_files_of_curve_and_picture():
    """Every row of the metrics is under its own header."""
    result = fitted(logger := LOGGERS["CSV"](), WithLR)
    bounds = {"lr_range_test/base_lr": result.bounds.base_lr, "lr_range_test/max_lr": result.bounds.max_lr}
    with open(Path(logger.log_dir, "metrics.csv"), newline="") as file:
        first, *rows = csv.DictReader(file)

    assert {name: float(value) for name, value in first.items() if value} == {**bounds, "step": 0.0}
    assert [row["step"] for row in rows] == ["3", "7", "11", "15"]
    assert all(row["train_loss"] and not row["lr_range_test/max_lr"] for row in rows)
    assert yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text()) == {
        **bounds,
        "lr": result.bounds.max_lr / 2,
    }
    assert_curve_and_picture(Path(logger.log_dir), result)


# --- all of them ------------------------------------------------------------------------------------------------------


def told(logger):
    """Names and values that any of the loggers shows as hyper-parameters."""
    if isinstance(logger, WandbLogger):
        return wandb_run()[1]
    if isinstance(logger, MLFlowLogger):
        return MlflowClient("file:logs/mlruns").get_run(logger.run_id).data.params
    return yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())


@each_logger
def test_reason_is_shown_where_there_are_no_bounds(make):
    """And the curve with it."""
    with pytest.warns(UserWarning, match="configured learning rate is kept"):
        result = fitted(logger := make(), Flat)

    shown = told(logger)
    assert shown["lr_range_test/reason"] == result.reason
    assert "lr_range_test/max_lr" not in shown
    assert [*Path("logs").rglob("*lr_range_test*")] or events(logger).Scalars("lr_range_test/value")


@each_logger
def test_test_that_ended_at_once_is_shown(make):
    """One step, and not a finite number; nothing is warned about."""
    log_result([logger := make()], RangeTestResult([0.1], [math.nan], reason="it was NaN at once"))

    assert told(logger)["lr_range_test/reason"] == "it was NaN at once"


def test_reason_is_shown_before_it_is_raised():
    """The curve may tell what to do about it."""
    logger = LOGGERS["CSV"]()

    with pytest.raises(RuntimeError, match="no bounds"):
        fitted(logger, Flat, on_inconclusive="raise")

    assert Path(logger.log_dir, "lr_range_test.csv").exists()


class Drops(WithDropout):
    """At a learning rate of its own."""

    def __init__(self, lr):
        super().__init__()
        self.lr = lr

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Draws(Logger):
    """A logger that draws random numbers of all kinds."""

    name, version = "draws", 0

    def log_metrics(self, metrics, step=None):
        torch.rand(1), random.random(), numpy.random.rand()

    log_hyperparams = log_metrics


def weights_after(logger, lr, *callbacks):
    # made before the seed: MLflow draws as many numbers for a new experiment as its UUID has leading zeros
    getattr(logger, "experiment", None)
    seed_everything(2)
    module = Drops(lr)
    quiet_trainer(max_epochs=1, logger=logger, callbacks=[*callbacks], log_every_n_steps=4).fit(
        module, loader(shuffle=True)
    )
    drawn = torch.rand(1).item(), random.random(), numpy.random.rand()
    return [weight.tolist() for weight in module.parameters()], drawn


@pytest.mark.parametrize("make", [*EACH, pytest.param(Draws, id="one that draws random numbers")])
def test_training_is_what_it_is_without_a_test(make, monkeypatch):
    """Bit for bit, and so are the random numbers after it."""
    test = LRRangeTest(num_steps=40, closer_look=False)

    after_test = weights_after(make(), 0.1, test)
    wandb.finish()
    Path("untested").mkdir()
    monkeypatch.chdir("untested")

    assert after_test == weights_after(make(), test.result.bounds.max_lr / 2)


@each_logger
def test_picture_needs_matplotlib_and_the_rest_does_not(make, monkeypatch):
    """Nothing is said about it."""
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)

    result = fitted(logger := make())

    assert {"lr_range_test/base_lr", "lr_range_test/max_lr"} <= set(told(logger))
    assert [*Path("logs").rglob("*.png")] == []
    assert result.bounds is not None


@each_logger
def test_pictures_are_nowhere_open(make):
    """Neither in pyplot's list, nor is its backend another one."""
    before = plt.get_fignums(), plt.get_backend()

    fitted(make())

    assert (plt.get_fignums(), plt.get_backend()) == before


def test_loggers_of_the_other_package_are_told_too():
    """And classes derived from them."""

    class Own(lightning.pytorch.loggers.CSVLogger):
        pass

    fitted(logger := Own("logs"))

    assert Path(logger.log_dir, "lr_range_test.png").exists()


class Refuses(Logger):
    """Takes nothing."""

    name, version = "refuses", 0

    def log_metrics(self, metrics, step=None):
        if "lr_range_test/max_lr" in metrics:
            raise ConnectionError("the server is gone")

    def log_hyperparams(self, params):
        raise ConnectionError("the server is gone")


def test_logger_that_refuses_is_named_and_keeps_nobody_from_logging():
    """Training goes on, too."""
    logger = LOGGERS["CSV"]()

    with pytest.warns(UserWarning, match="Refuses has not taken") as warned:
        fitted([Refuses(), logger])

    assert [str(warning.message) for warning in warned if "Refuses" in str(warning.message)] == [
        "Refuses has not taken the outcome of the range test as hyper-parameters: the server is gone",
        "Refuses has not taken all that the range test has recorded: the server is gone",
    ]
    assert Path(logger.log_dir, "lr_range_test.csv").exists()


class Notes(Logger):
    """Any other logger."""

    name, version = "notes", 0

    def __init__(self):
        super().__init__()
        self.params, self.metrics = {}, []

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, metrics))

    def log_hyperparams(self, params):
        self.params |= params


def test_any_other_logger_is_told_the_bounds():
    """By the interface that all share."""
    result = fitted(logger := Notes())

    bounds = {"lr_range_test/base_lr": result.bounds.base_lr, "lr_range_test/max_lr": result.bounds.max_lr}
    assert logger.params == bounds
    assert logger.metrics[0] == (0, bounds)
    assert [step for step, _ in logger.metrics[1:]] == [3, 7, 11, 15]


def test_only_one_rank_logs(monkeypatch):
    """Also where a logger does not see to that itself."""
    monkeypatch.setattr("pytorch_lightning.Trainer.is_global_zero", False)

    fitted(logger := Notes())

    assert logger.params == {}


def test_function_logs_nothing():
    """It trains nothing either."""
    lr_range_test(quiet_trainer(logger=LOGGERS["CSV"](), max_epochs=1), Plain(), loader(), num_steps=40)

    assert [*Path("logs").iterdir()] == []


def test_resumed_training_does_not_log_it_again():
    """Its bounds come from the checkpoint."""
    trainer = quiet_trainer(max_epochs=1, callbacks=[LRRangeTest(num_steps=40)])
    trainer.fit(Scheduled(), loader())
    trainer.save_checkpoint("last.ckpt")
    logger, test = Notes(), LRRangeTest(num_steps=40)
    resumed = quiet_trainer(max_epochs=2, logger=logger, callbacks=[test], log_every_n_steps=4)

    with pytest.warns(UserWarning, match="made for 16 optimizer steps, training now has 32"):
        resumed.fit(Scheduled(), loader(), ckpt_path="last.ckpt")

    assert test.result.bounds is not None
    assert logger.params == {}
    assert not any("lr_range_test/max_lr" in metrics for _, metrics in logger.metrics)


def test_both_sweeps_are_shown():
    """The second under names of its own."""
    result = RangeTestResult([0.1, 0.2], [2.0, 1.0], closer_lrs=[0.1], closer_values=[1.5], bounds=LRBounds(0.1, 0.2))
    logger = LOGGERS["TensorBoard"]()

    log_result([logger], result)

    assert scalars(read := events(logger), "lr_range_test/value") == [(0, 2.0), (1, 1.0)]
    assert scalars(read, "lr_range_test/second_value") == [(0, 1.5)]
    assert scalars(read, "lr_range_test/second_lr") == [(0, pytest.approx(0.1))]


# --- Lightning's monitor of learning rates ----------------------------------------------------------------------------


class Optimizers(Plain):
    """As many optimizers, each with one of our schedules, as it is given; manual if there are several."""

    def __init__(self, *build):
        super().__init__()
        self.build, self.automatic_optimization = build, len(build) == 1

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if not self.automatic_optimization:
            self.manual_backward(loss)
            for optimizer, scheduler in zip(self.optimizers(), self.lr_schedulers(), strict=True):
                optimizer.step()
                optimizer.zero_grad()
                scheduler.step()
        return loss

    def configure_optimizers(self):
        optimizers = [build(self) for build in self.build]
        schedulers = [ScheduleLR(optimizer, OneCycle(), 16, LRBounds(0.01, 0.1)) for optimizer in optimizers]
        return optimizers, [{"scheduler": scheduler, "interval": "step"} for scheduler in schedulers]


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=0.1)


def adamw(module):
    return torch.optim.AdamW(module.parameters(), lr=0.1)


def two_groups(module):
    return torch.optim.SGD(
        [{"params": module.body.parameters(), "lr": 0.01}, {"params": module.head.parameters()}], lr=0.1, momentum=0.9
    )


SEEN = {
    "SGD": (lambda: Optimizers(sgd), {"lr-SGD": 1.0, "lr-SGD-momentum": None}),
    "Adam": (lambda: Optimizers(adam), {"lr-Adam": 1.0, "lr-Adam-momentum": None}),
    "two groups": (
        lambda: Optimizers(two_groups),
        {"lr-SGD/pg1": 0.1, "lr-SGD/pg1-momentum": None, "lr-SGD/pg2": 1.0, "lr-SGD/pg2-momentum": None},
    ),
    "two optimizers": (
        lambda: Optimizers(adam, adamw),
        {"lr-Adam": 1.0, "lr-Adam-momentum": None, "lr-AdamW": 1.0, "lr-AdamW-momentum": None},
    ),
    "two of a kind": (
        lambda: Optimizers(sgd, sgd),
        {"lr-SGD": 1.0, "lr-SGD-momentum": None, "lr-SGD-1": 1.0, "lr-SGD-1-momentum": None},
    ),
    "the mixin": (Scheduled, {"lr-SGD": 1.0, "lr-SGD-momentum": None}),
}


@pytest.mark.parametrize(("module", "names"), SEEN.values(), ids=SEEN.keys())
def test_monitor_shows_what_training_does_and_nothing_of_the_sweep(module, names):
    """Every learning rate from one 25th of its share of max_lr to all of it; 1cycle's momentum, also as Adam's beta."""
    test, logger = LRRangeTest(num_steps=40, closer_look=False), Notes()
    monitor = LearningRateMonitor(logging_interval="step", log_momentum=True)
    trainer = quiet_trainer(max_epochs=1, logger=logger, callbacks=[monitor, test], log_every_n_steps=1)

    trainer.fit(module(), loader())
    shown = [metrics for _, metrics in logger.metrics if any(name in metrics for name in names)]

    assert [{*metrics} for metrics in shown] == [{*names}] * 16
    for name, share in names.items():
        values = [metrics[name] for metrics in shown]
        if share is None:
            assert (max(values), min(values)) == (0.95, pytest.approx(0.85, abs=0.003))
        else:
            assert max(values) == pytest.approx(share * test.result.bounds.max_lr, rel=0.05)
            assert values[0] == pytest.approx(share * test.result.bounds.base_lr)
