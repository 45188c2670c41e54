"""What sleeps during a range test can be looked up, and neither acts nor writes."""

import copy
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, LambdaCallback, ModelCheckpoint, ProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from lightning_clr import LRRangeTest, lr_range_test
from lightning_clr.trial.silent import Silent
from support.data import loader
from support.models import Bounded, Plain
from support.training import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*Checkpoint directory .* exists and is not empty")
SWEEP = {"num_steps": 20, "min_lr": 1e-4, "max_lr": 0.1, "closer_look": False, "on_inconclusive": "warn"}


@pytest.fixture(params=["callback", "function"])
def swept(request):
    """Runs only a test's steps with ``body`` in each of them; the callback's training ends before its first step."""

    def sweep(body, callbacks=(), awake=None, **trainer):
        class Net(Plain):
            def training_step(self, batch, batch_idx):
                loss = self.loss(batch)
                found = body(self, loss)
                return loss if found is None else found

        settings = {**SWEEP, "awake": awake}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="LR range test: no bounds")
            if request.param == "function":
                return lr_range_test(quiet_trainer(callbacks=[*callbacks], **trainer), Net(), loader(64), **settings)
            test = EndsWithTheTest(**settings)
            trainer = quiet_trainer(callbacks=[test, *callbacks], **{"max_epochs": 1, **trainer})
            trainer.fit(Net(), loader(64))
        return test.result

    return sweep


class EndsWithTheTest(LRRangeTest):
    def on_train_start(self, trainer, pl_module):
        super().on_train_start(trainer, pl_module)
        trainer.fit_loop.epoch_loop.max_steps = 0


class Remembers(Callback):
    """Has attributes, and what the steps may change."""

    __slots__ = ("slot",)
    weight = 0.5

    def __init__(self):
        self.slot, self.count, self.losses, self.bank, self.hooks = 1, 0, [], torch.zeros(2), []

    def __setattr__(self, name, value):
        if name.startswith("on_"):
            raise AttributeError("hooks are not to be replaced")
        object.__setattr__(self, name, value)

    def on_train_batch_end(self, *args):
        self.hooks.append("batch end")

    def on_before_optimizer_step(self, *args):
        self.hooks.append("step")


def test_callbacks_are_found_where_they_are_and_do_nothing(swept):
    mine, seen = Remembers(), []
    callbacks = [mine, ModelCheckpoint(dirpath="here"), EarlyStopping("x"), TQDMProgressBar(refresh_rate=0)]

    def body(module, loss):
        trainer = module.trainer
        assert type(trainer.callbacks[1]) is Remembers
        assert trainer.callbacks[1] is mine
        assert trainer.checkpoint_callback.dirpath.endswith("here")
        assert trainer.early_stopping_callback.patience == 3
        assert isinstance(trainer.progress_bar_callback, ProgressBar)
        trainer.progress_bar_callback.train_progress_bar.set_postfix(loss=1.0)
        module.print("said in a step")
        seen.append(mine.hooks[:])
        return loss * mine.weight

    swept(body, callbacks, enable_checkpointing=True, enable_progress_bar=True)

    assert len(seen) >= 20
    assert not any(seen)
    assert not Path("here").exists()


def test_default_checkpoint_knows_its_folder(swept):
    folders = set()
    swept(
        lambda module, loss: folders.add(module.trainer.checkpoint_callback.dirpath),
        enable_checkpointing=True,
        logger=CSVLogger("logs"),
    )
    (folder,) = folders

    assert folder.endswith(os.path.join("lightning_logs", "version_0", "checkpoints"))


def test_what_steps_change_in_a_callback_is_put_back(swept):
    mine = Remembers()

    def body(module, loss):
        mine.count += 1
        mine.slot += 1
        mine.losses.append(loss.item())
        mine.bank.add_(1)
        mine.new = "new"

    swept(body, [mine])

    assert (mine.count, mine.slot, mine.losses, mine.bank.tolist()) == (0, 1, [], [0.0, 0.0])
    assert not hasattr(mine, "new")
    assert [name for name in vars(mine) if name.startswith("on_")] == []


LOGGERS = {
    "tensorboard": lambda: TensorBoardLogger("logs", "tb"),
    "csv": lambda: CSVLogger("logs", "csv"),
    "wandb": lambda: WandbLogger(save_dir="logs", project="p"),
    "mlflow": lambda: MLFlowLogger("e", tracking_uri="file:./mlruns"),
}
USES = {
    "metrics": lambda logger, loss: logger.log_metrics({"x": float(loss)}, step=1),
    "hyperparameters": lambda logger, loss: logger.log_hyperparams({"x": float(loss)}),
    "path": lambda logger, loss: Path(os.path.join(str(logger.save_dir), str(logger.name), f"{logger.version}")),
    "call": lambda logger, loss: logger.experiment.add_scalar("x", loss, 1),
    "chain": lambda logger, loss: logger.experiment.a.b["c"].d(loss, e=1).f,
    "item": lambda logger, loss: logger.experiment.summary.__setitem__("best", loss),
    "read again": lambda logger, loss: _assign_and_read(logger.experiment.summary, loss),
    "attribute": lambda logger, loss: setattr(logger.experiment, "notes", "x"),
    "context": lambda logger, loss: _in_context(logger.experiment.start_run()),
    "iteration": lambda logger, loss: [*logger.experiment.history(), *logger.experiment.files],
    "folder": lambda logger, loss: os.path.join(logger.experiment.some_dir, "images"),
    "text": lambda logger, loss: "/".join(["ckpt", logger.experiment.run_id, f"{logger.experiment.name:>8}"]),
    "number": lambda logger, loss: range(logger.experiment.steps_made + 1)[int(logger.experiment.offset)],
    "comparison": lambda logger, loss: logger.experiment.steps_made % 10 == 0 and logger.experiment.best_so_far < 5,
}


def _assign_and_read(summary, loss):
    summary["best"] = float(loss)
    assert summary["best"] == float(loss)


def _in_context(run):
    with run as entered:
        entered.log({"x": 1})


@pytest.mark.parametrize("make", [LOGGERS["tensorboard"], LOGGERS["csv"]], ids=["tensorboard", "csv"])
def test_loggers_swallow_what_steps_write(swept, make):
    """In every way to use them."""
    logger, used = make(), set()

    def body(module, loss):
        assert module.trainer.loggers[1] is logger
        assert type(module.trainer.loggers[1]) is type(logger)
        for name, use in USES.items():
            use(module.trainer.loggers[1], loss.detach())
            use(module.logger, loss.detach())
            used.add(name)

    result = swept(body, logger=[CSVLogger("first"), logger])

    assert len(result.lrs) == 20
    assert used == USES.keys()
    assert not any(name.startswith(("log_", "exp")) for name in vars(logger))
    assert "x" not in "".join(path.read_text() for path in Path().rglob("metrics.csv"))


def test_writer_is_of_its_class():
    """A step may insist on it."""
    written = []

    class Insists(Plain):
        def training_step(self, batch, batch_idx):
            writer = self.logger.experiment
            assert isinstance(writer, SummaryWriter)
            writer.add_scalar("x", 1.0, self.global_step)
            written.append(type(writer) is SummaryWriter)
            return super().training_step(batch, batch_idx)

    trainer = quiet_trainer(max_steps=3, logger=TensorBoardLogger("logs"), callbacks=[LRRangeTest(**SWEEP)])
    trainer.fit(Insists(), loader())

    assert written[-3:] == [True] * 3
    assert not any(written[:-3])
    lr_range_test(quiet_trainer(max_steps=3, logger=TensorBoardLogger("others")), Insists(), loader(), **SWEEP)
    assert not Path("others").exists(), "which was not made for that"


KEPT = {}


def test_writer_that_was_kept_writes_in_training_alone():
    """In an attribute from before, in a global from the test; copies and comparisons are those of an object."""

    class Keeps(Plain):
        def on_fit_start(self):
            self.writer = self.logger.experiment

        def training_step(self, batch, batch_idx):
            self.writer.add_scalar("early", 1.0, self.global_step)
            KEPT.setdefault("writer", self.logger.experiment).add_scalar("late", 1.0, self.global_step)
            assert isinstance(copy.copy(KEPT["writer"]), SummaryWriter)
            assert KEPT["writer"] not in (None, False, 0, "")
            return super().training_step(batch, batch_idx)

    KEPT.clear()
    trainer = quiet_trainer(max_steps=3, logger=TensorBoardLogger("logs"), callbacks=[LRRangeTest(**SWEEP)])
    trainer.fit(module := Keeps(), loader())
    trainer.logger.experiment.flush()
    events = EventAccumulator(trainer.logger.log_dir).Reload()

    assert type(module.writer) is SummaryWriter
    assert type(KEPT["writer"]) is not SummaryWriter
    assert [len(events.Scalars(tag)) for tag in ("early", "late")] == [3, 3]


HOLD = {
    "containers": lambda it: {"a": {"b": [it]}},
    "objects": lambda it: SimpleNamespace(inner=SimpleNamespace(it=it)),
}


@pytest.mark.filterwarnings("ignore:LR range test. no bounds")
@pytest.mark.parametrize("hold", HOLD.values(), ids=HOLD)
def test_scheduler_that_is_stepped_by_hand_does_not_run_out(hold):
    """Wherever the module holds it."""

    class ByHand(Plain):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            self.held = hold(torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=6))
            return optimizer

        def training_step(self, batch, batch_idx):
            optimizer, loss = self.optimizers(), self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            held = self.held["a"]["b"][0] if isinstance(self.held, dict) else self.held.inner.it
            held.step()
            return loss

    trainer = quiet_trainer(max_steps=5, callbacks=[test := LRRangeTest(**SWEEP)])
    trainer.fit(ByHand(), loader())

    assert trainer.global_step == 5
    assert len(test.result.lrs) > 6


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_trackers_start_no_run_and_take_nothing(name):
    logger = LOGGERS[name]()
    before = [*Path().rglob("*")]

    class Net(Plain):
        def setup(self, stage):
            assert self.logger.experiment.anything.at("all") is not None

        def training_step(self, batch, batch_idx):
            for use in USES.values():
                use(self.logger, torch.tensor(1.0))
            if name == "wandb":
                self.logger.log_image("x", [torch.zeros(3, 4, 4)])
            return self.loss(batch)

    lr_range_test(quiet_trainer(logger=logger), Net(), loader(64), **SWEEP)

    assert vars(logger).get("_experiment") is None
    assert not vars(logger).get("_initialized")
    assert [*Path().rglob("*")] == before


class Backend:
    def __init__(self):
        self.rows = []

    def send(self, row):
        self.rows.append(row)


class Custom(Logger):
    """One that holds what it writes to, and has methods of its own."""

    name, version = "custom", 3

    def __init__(self):
        super().__init__()
        self.backend, self._backend, self.notes = Backend(), Backend(), []
        self.backend.url = "http://here"

    @property
    def experiment(self):
        return self._backend

    @property
    def run(self):
        return self._backend

    def log_metrics(self, metrics, step=None):
        self._backend.send(metrics)

    def log_hyperparams(self, params, *args, **kwargs): ...

    def add_image(self, image):
        self._backend.send(image)

    def get_color(self):
        return "red"


def test_loggers_of_the_user_are_silent_in_all_that_is_public(swept):
    logger, other = Custom(), Custom()

    def body(module, loss):
        mine = module.logger
        mine.log_metrics({"x": 1})
        mine.add_image(loss)
        mine.backend.send(loss)
        mine.run["loss"].append(loss)
        mine.experiment.send(loss)
        mine.notes.append(1)
        other.experiment.send("another's")
        assert (mine.name, mine.version, mine.get_color(), mine.backend.url) == ("custom", 3, "red", "http://here")

    swept(body, logger=logger)

    assert logger.backend.rows == [] == logger.notes
    assert [row for row in logger._backend.rows if "x" in row or torch.is_tensor(row)] == []
    assert len(other._backend.rows) >= 20
    assert isinstance(vars(Custom)["experiment"], property)
    assert logger.experiment is logger._backend


class Soft(Callback):
    """Mixes batches: labels become probabilities."""

    def __init__(self):
        self.calls = 0

    def on_train_start(self, trainer, pl_module):
        self.share = 0.9

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.calls += 1
        batch[1] = self.share * torch.nn.functional.one_hot(batch[1], 3).float()


class Softened(Plain):
    def loss(self, batch):
        x, y = batch
        return -(y * self(x).log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("awake", [[Soft], ["Soft"], [f"{__name__}.Soft"], Soft], ids=repr)
def test_callback_that_is_to_be_awake_is_and_is_put_back(awake):
    soft = Soft()
    result = lr_range_test(quiet_trainer(callbacks=[soft]), Softened(), loader(64), **SWEEP, awake=awake)

    assert len(result.lrs) == 20
    assert soft.calls == 0
    assert not hasattr(soft, "share")


def test_first_error_names_who_sleeps():
    with pytest.raises(RuntimeError, match="size of tensor") as raised:
        lr_range_test(quiet_trainer(callbacks=[Soft(), EarlyStopping("x")]), Softened(), loader(64), **SWEEP, awake=[])

    assert any("['Soft']" in note and "awake" in note for note in raised.value.__notes__)


class Bar(TQDMProgressBar):
    def on_train_batch_start(self, *args): ...


@pytest.mark.parametrize(
    ("make", "awake", "warned"),
    [
        (lambda: [Soft(), Remembers()], None, ["['Soft']"]),
        (lambda: [LambdaCallback(on_train_batch_start=print)], None, ["['LambdaCallback']"]),
        (lambda: [Soft()], [], []),
        (lambda: [Remembers(), Bar(), ModelCheckpoint()], None, []),
    ],
    ids=["overridden", "given", "thought of", "harmless"],
)
def test_warns_once_of_a_sleeper_that_may_change_batches(make, awake, warned):
    module = Bounded()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = quiet_trainer(callbacks=make(), enable_progress_bar=True, enable_checkpointing=True)
        result = lr_range_test(trainer, module, loader(64), num_steps=20, budget=150, awake=awake)
    messages = [str(one.message) for one in caught if "on_train_batch_start" in str(one.message)]

    assert result.runs  # each in a trial of its own
    assert len(messages) == len(warned)
    assert all(name in message for name, message in zip(warned, messages, strict=True))


@pytest.mark.parametrize(
    ("awake", "error", "message"),
    [
        (["Nobody"], ValueError, "Nobody.*They are"),
        ([3], TypeError, "`awake` must be classes"),
        (3, TypeError, "awake"),
    ],
)
def test_refuses_to_keep_nobody_awake(awake, error, message):
    with pytest.raises(error, match=message):
        lr_range_test(quiet_trainer(callbacks=[Soft()]), Plain(), loader(64), **SWEEP, awake=awake)


def test_test_among_the_callbacks_sleeps_in_the_function():
    class Counts(Plain):
        steps = 0

        def training_step(self, batch, batch_idx):
            Counts.steps += 1
            return self.loss(batch)

    test = LRRangeTest(**SWEEP)
    lr_range_test(quiet_trainer(callbacks=[test]), Counts(), loader(64), **SWEEP)

    assert Counts.steps == 20
    assert test.result is None


def test_silent_follows_no_protocol_but_its_own():
    silent = Silent("experiment", "logs")

    assert not hasattr(silent, "__array__")
    assert (silent.dir, silent.x == "asleep", float(silent.y), silent.z + "!") == ("logs", True, 0.0, "asleep!")
    assert Path(silent.root, "a") == silent.root / "a" == Path("logs/a")
