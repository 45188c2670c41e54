"""The sweep shows a bar of the kind the trainer uses, and leaves the screen to training after it."""

import functools

import pytest
import rich
import tqdm.auto
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from lightning_clr import LRRangeTest, lr_range_test
from support.data import loader
from support.models import Plain, Slow
from support.training import quiet_trainer

TITLE = "LR range test"
TERMINAL = {"force_terminal": True, "width": 100, "legacy_windows": False}


@pytest.fixture(autouse=True)
def _terminals(monkeypatch):
    """Both libraries write as to a terminal, tqdm every step."""
    monkeypatch.setattr("tqdm.auto.tqdm", functools.partial(tqdm.auto.tqdm, mininterval=0))
    rich.reconfigure(**TERMINAL)
    yield
    rich.reconfigure()


def rich_bar():
    return RichProgressBar(refresh_rate=8, console_kwargs=TERMINAL)


def trainer_with(*callbacks, **arguments):
    return quiet_trainer(enable_progress_bar=True, max_epochs=1, callbacks=[*callbacks], **arguments)


def range_tested_with(*callbacks, **arguments):
    """A trainer after a fit that began with a range test of twenty steps."""
    trainer = trainer_with(LRRangeTest(num_steps=20, on_inconclusive="raise"), *callbacks, **arguments)
    trainer.fit(Plain(), loader(), loader(32))
    return trainer


BARS = {"tqdm": TQDMProgressBar, "rich": rich_bar}
each_bar = pytest.mark.parametrize("bar", BARS.values(), ids=BARS.keys())
sanity_checks = pytest.mark.parametrize("num_sanity_val_steps", [0, 2], ids=["no sanity check", "sanity check"])


@each_bar
@sanity_checks
def test_bar_is_shown_until_the_end_of_the_sweep(bar, num_sanity_val_steps, capsys):
    """And training's own bar after it."""
    range_tested_with(bar(), num_sanity_val_steps=num_sanity_val_steps)

    out, err = capsys.readouterr()
    if bar is TQDMProgressBar:  # the sweep goes to standard error, training to standard output
        assert f"{TITLE}: 100%" in err
        assert "20/20" in err
        assert "Epoch 0: 100%" in out
    else:
        sweep, training = out.split("Epoch 0", 1)
        assert TITLE in sweep
        assert "100%" in sweep
        assert TITLE not in training
        assert "16/16" in training


@each_bar
@sanity_checks
def test_training_goes_on_under_its_bar(bar, num_sanity_val_steps, capsys):
    """All sixteen batches of the epoch."""
    trainer = range_tested_with(bar(), num_sanity_val_steps=num_sanity_val_steps)

    assert trainer.global_step == 16


def test_rich_bar_of_an_earlier_run_stays_off_the_screen(capsys):
    """A bar that `validate` has left behind is not live, and is not brought back beside the new one."""
    lives = []

    class CountsLives(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            lives.append(sum(progress.live.is_started for progress in bars))

    bar, bars = rich_bar(), []
    trainer = trainer_with(LRRangeTest(num_steps=20), bar, CountsLives(), num_sanity_val_steps=0)
    trainer.validate(Plain(), loader(32), verbose=False)
    bars.append(bar.progress)

    trainer.fit(Plain(), loader())

    assert set(lives) == {0}


def test_rich_bar_survives_a_failing_sweep(capsys):
    """The next training shows its bar as ever."""
    bar = rich_bar()
    with pytest.raises(ValueError, match="`monitor` must be"):
        trainer_with(LRRangeTest(monitor="nope"), bar).fit(Plain(), loader(), loader(32))
    capsys.readouterr()

    trainer_with(bar).fit(Plain(), loader())

    assert "Epoch 0" in capsys.readouterr().out


@each_bar
def test_function_shows_a_bar(bar, capsys):
    """`lr_range_test` keeps the trainer's bar awake."""
    lr_range_test(trainer_with(bar()), Plain(), loader(), num_steps=20)

    assert TITLE in "".join(capsys.readouterr())


def test_bar_grows_with_a_sweep_that_goes_on(capsys):
    """To a learning rate of a thousand it takes eleven steps more than the forty it began with."""
    result = lr_range_test(trainer_with(TQDMProgressBar()), Slow(), loader(), num_steps=40, closer_look=False)

    shown = capsys.readouterr().err
    assert len(result.lrs) == 51
    assert "39/40" in shown
    assert f"{TITLE}: 100%" in shown
    assert "51/51" in shown


class Quiet(ProgressBar):
    """A progress bar of the user's own, in a notebook perhaps."""

    def disable(self):
        """Nothing to do."""


def test_bar_of_the_users_own_gets_a_plain_one_beside_it(capsys):
    """Whatever it draws on, the sweep is on standard error."""
    range_tested_with(Quiet())

    assert "20/20" in capsys.readouterr().err


SILENT = {
    "no bar": ((), {"enable_progress_bar": False}),
    "tqdm refreshed never": ((TQDMProgressBar(refresh_rate=0),), {}),
    "rich refreshed never": ((RichProgressBar(refresh_rate=0),), {}),
}


@pytest.mark.parametrize(("callbacks", "arguments"), SILENT.values(), ids=SILENT.keys())
def test_nothing_is_shown_where_training_shows_nothing(callbacks, arguments, capsys):
    """With bars turned off there is none for the sweep either."""
    trainer = quiet_trainer(
        max_epochs=1, callbacks=[LRRangeTest(num_steps=20), *callbacks], **{"enable_progress_bar": True, **arguments}
    )
    capsys.readouterr()

    trainer.fit(Plain(), loader())

    shown = "".join(capsys.readouterr())
    assert "%" not in shown
    assert f"{TITLE} " not in shown


@pytest.mark.parametrize("bar", [*BARS.values(), Quiet], ids=[*BARS, "the user's own"])
def test_only_one_rank_shows_a_bar(bar, capsys, monkeypatch):
    """The others would write over it."""
    monkeypatch.setattr("pytorch_lightning.Trainer.is_global_zero", False)

    range_tested_with(bar())

    assert TITLE not in "".join(capsys.readouterr())
