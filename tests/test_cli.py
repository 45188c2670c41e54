"""The command line, with the LightningCLI of either package."""

import json
import re
import subprocess
import sys
from pathlib import Path

import lightning.pytorch.cli as lightning_cli
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.cli import LightningCLI

from lightning_clr import CLRCLI, Cyclic, LRBounds, LRRangeTest, OneCycle
from support.models import Flat, Plain, Scheduled
from support.processes import SUPPORT, environment
from support.twins import DATA, PLAIN, SCHEDULED, Data, each_package

pytestmark = pytest.mark.filterwarnings("ignore:`.*.configure_optimizers` will be overridden")  # by --optimizer

QUIET = [
    "--trainer.accelerator=cpu",
    "--trainer.max_epochs=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_checkpointing=false",
]
TEST = ["--trainer.callbacks+=LRRangeTest", "--trainer.callbacks.num_steps=50"]
CYCLIC = ["--model.schedule=Cyclic", "--model.schedule.step_size=4"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No command line but the one the test gives, and of Lightning's subcommands the one that is used.

    To make the parsers of the others would take most of the time.
    """
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for kind in (LightningCLI, lightning_cli.LightningCLI):
        fit = {"fit": kind.subcommands()["fit"]}
        monkeypatch.setattr(kind, "subcommands", staticmethod(lambda fit=fit: fit))


def command(model, *flags, data=Data, cli=CLRCLI, **arguments):
    subcommand, *others = flags
    return cli(model, data, args=[subcommand, *QUIET, *others], seed_everything_default=1, **arguments)


def lrs_of(cli):
    """The learning rates that the scheduler plans."""
    scheduler = cli.model.lr_schedulers()
    return [scheduler.schedule.lr(step, scheduler.total_steps, scheduler.bounds) for step in range(16)]


@each_package
def test_schedule_is_chosen_by_flags(package):
    """With its arguments, for a module with the mixin."""
    flags = ["--model.schedule=OneCycle", "--model.schedule.pct_start=0.2"]

    cli = command(SCHEDULED[package], "fit", *flags, data=DATA[package])

    assert isinstance(cli, package.cli.LightningCLI)
    assert cli.model.schedule == OneCycle(pct_start=0.2)
    assert cli.model.lr_schedulers().last_epoch == 16


@each_package
def test_range_test_is_added_by_flags(package):
    """The bounds it finds are in force."""
    cli = command(SCHEDULED[package], "fit", *CYCLIC, *TEST, data=DATA[package])

    (test,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, LRRangeTest))
    assert (test.settings.num_steps, test.settings.min_lr) == (50, 1e-6)
    assert cli.model.lr_schedulers().bounds == cli.model.lr_bounds == test.result.bounds is not None


@each_package
def test_optimizer_goes_with_the_schedule_of_the_module(package):
    """Of LightningCLI's own flags, the optimizer replaces the module's, and the schedule stays."""
    flags = ["--optimizer=AdamW", "--optimizer.lr=0.02"]

    cli = command(SCHEDULED[package], "fit", *CYCLIC, *flags, data=DATA[package])

    assert isinstance(cli.model.lr_schedulers().optimizer, torch.optim.AdamW)
    assert (min(lrs_of(cli)), max(lrs_of(cli))) == (0.005, 0.02)


@each_package
@pytest.mark.parametrize("optimizer", [[], ["--optimizer=Adam", "--optimizer.lr=0.1"]], ids=["own", "by flag"])
def test_schedule_is_attached_to_a_module_without_the_mixin(package, optimizer):
    """By flags alone; it steps with the optimizer, between the bounds given."""
    bounds = ["--lr_bounds.base_lr=0.01", "--lr_bounds.max_lr=0.3"]

    cli = command(PLAIN[package], "fit", "--schedule=OneCycle", *bounds, *optimizer, data=DATA[package])

    scheduler = cli.model.lr_schedulers()
    assert (scheduler.schedule, scheduler.bounds) == (OneCycle(), LRBounds(0.01, 0.3))
    assert (scheduler.last_epoch, scheduler.total_steps) == (16, 16)
    assert type(scheduler.optimizer).__name__ == ("Adam" if optimizer else "SGD")


@each_package
def test_range_test_sets_the_bounds_of_an_attached_schedule(package):
    """As with the mixin."""
    cli = command(PLAIN[package], "fit", "--schedule=OneCycle", *TEST, data=DATA[package])

    assert cli.model.lr_schedulers().bounds == cli.trainer.callbacks[0].result.bounds is not None


def test_module_without_the_mixin_is_left_as_it_is():
    """Unless a schedule is asked for."""
    cli = command(Plain, "fit", "--optimizer=Adam")

    assert cli.model.lr_schedulers() is None


def test_torch_cycles_step_with_the_optimizer():
    """LightningCLI would step them once an epoch."""
    flags = ["--optimizer=SGD", "--optimizer.lr=0.1", "--lr_scheduler=OneCycleLR", "--lr_scheduler.max_lr=1"]

    cli = command(Plain, "fit", *flags, "--lr_scheduler.total_steps=17")

    assert cli.model.lr_schedulers().last_epoch == 16


def test_other_torch_schedulers_step_as_in_lightning():
    """Once an epoch, and by what they monitor."""
    adam = ["--optimizer=Adam", "--optimizer.lr=0.1"]
    plateau = ["--lr_scheduler=ReduceLROnPlateau", "--lr_scheduler.monitor=val_acc"]

    stepped = command(Plain, "fit", *adam, "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1")
    monitoring = command(Plain, "fit", *adam, *plateau)

    assert stepped.model.lr_schedulers().get_last_lr() == [pytest.approx(0.01)]
    assert monitoring.trainer.lr_scheduler_configs[0].monitor == "val_acc"


def test_configuration_files(tmp_path):
    """With class paths and their arguments."""
    Path("fit.yaml").write_text(
        """
        trainer:
          callbacks:
            - class_path: lightning_clr.LRRangeTest
              init_args: {num_steps: 50, max_lr: 5.0}
        model:
          schedule:
            class_path: lightning_clr.Cyclic
            init_args: {cycles: 2, mode: triangular2}
        """
    )

    cli = command(Scheduled, "fit", "--config=fit.yaml")

    assert cli.model.schedule == Cyclic(cycles=2, mode="triangular2")
    assert cli.trainer.callbacks[0].settings.max_lr == 5.0


def test_plain_lightning_cli_knows_the_mixin_and_the_callback():
    """What needs no flag of ours."""
    cli = command(Scheduled, "fit", *CYCLIC, *TEST, cli=LightningCLI)

    assert cli.model.lr_schedulers().bounds == cli.trainer.callbacks[0].result.bounds is not None


@each_package
@pytest.mark.parametrize("models", [PLAIN, SCHEDULED], ids=["plain", "mixin"])
def test_range_test_prints_the_bounds_and_trains_nothing(package, models, capsys):
    """For people; curve and picture are in the log folder, and nothing else is."""
    cli = command(models[package], "range_test", *TEST, data=DATA[package])

    first, csv, png, *flags = capsys.readouterr().out.splitlines()
    assert first.startswith("LR range test: base_lr=")
    assert {str(path.absolute()) for path in Path().rglob("*.*")} == {csv, png}
    assert (Path(csv).name, Path(png).name) == ("lr_range_test.csv", "lr_range_test.png")
    assert [flag.partition("=")[0] for flag in flags] == ["--model.lr_bounds.base_lr"] * (models is SCHEDULED)
    assert cli.trainer.global_step == 0


def test_range_test_prints_json(capsys):
    """One object, which leads `fit` to what it would have found itself."""
    command(Scheduled, "range_test", *CYCLIC, *TEST, "--json")
    found = json.loads(capsys.readouterr().out)

    bounds = [f"--model.lr_bounds.{name}={found[name]}" for name in ("base_lr", "max_lr")]
    told, itself = command(Scheduled, "fit", *CYCLIC, *bounds), command(Scheduled, "fit", *CYCLIC, *TEST)

    assert lrs_of(told) == lrs_of(itself)
    assert torch.equal(told.model.head.weight, itself.model.head.weight)
    assert (found["reason"], found["monitor"]) == ("", "train loss")
    assert len(Path(found["csv"]).read_text().splitlines()) == found["steps"] - 16 + 1, "but for its verification"
    assert Path(found["png"]).read_bytes().startswith(b"\x89PNG")


def test_range_test_takes_the_configuration_of_a_fit(capsys):
    """The file that `fit` has saved."""
    command(Scheduled, "fit", *CYCLIC, *TEST)
    (config,) = Path().rglob("config.yaml")
    capsys.readouterr()

    cli = CLRCLI(Scheduled, Data, args=["range_test", f"--config={config}"])

    assert capsys.readouterr().out.startswith("LR range test: base_lr=")
    assert cli.trainer.callbacks[0].settings.num_steps == 50


class FlatScheduled(Scheduled, Flat):
    pass


def test_range_test_without_an_answer_ends_with_a_status(capsys):
    """And tells the reason."""
    with pytest.raises(SystemExit) as ended:
        command(FlatScheduled, "range_test", "--json")

    found = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1
    assert (found["base_lr"], found["max_lr"]) == (None, None)
    assert found["reason"].startswith("the curve is the same")


def test_training_resumes(capsys):
    """From a checkpoint whose hyper-parameters hold what the test has found."""
    first = command(Scheduled, "fit", *CYCLIC, *TEST)
    first.trainer.save_checkpoint("half.ckpt")

    second = command(Scheduled, "fit", *CYCLIC, *TEST, "--trainer.max_epochs=2", "--ckpt_path=half.ckpt")

    assert second.trainer.callbacks[0].result == first.trainer.callbacks[0].result
    assert second.model.lr_bounds == second.model.lr_schedulers().bounds == first.model.lr_bounds
    assert second.model.lr_schedulers().last_epoch == 32


class Own(CLRCLI):
    """A user's subclass."""

    def add_arguments_to_parser(self, parser):
        parser.link_arguments("trainer.max_epochs", "model.schedule.init_args.cycles")
        parser.set_defaults({"model.schedule": {"class_path": "lightning_clr.Cyclic"}})


@each_package
def test_subclasses_work_with_either_package(package):
    """Their hooks, and the parser's links."""
    cli = command(SCHEDULED[package], "fit", "--trainer.max_epochs=3", data=DATA[package], cli=Own)

    assert isinstance(cli, Own)
    assert cli.model.schedule == Cyclic(cycles=3)


def short_trainer(limit_train_batches: int = 3, **kwargs) -> pytorch_lightning.Trainer:
    return pytorch_lightning.Trainer(limit_train_batches=limit_train_batches, **kwargs)


def test_trainer_may_come_from_a_function(capsys):
    """As with LightningCLI."""
    cli = CLRCLI(Scheduled, Data, trainer_class=short_trainer, args=["range_test", "--trainer.limit_train_batches=4"])

    assert cli.trainer.num_training_batches == 4
    assert capsys.readouterr().out.startswith("LR range test: base_lr=")
    assert not hasattr(pytorch_lightning.Trainer, "range_test")


BOUNDS = ["--lr_bounds.base_lr=0.1", "--lr_bounds.max_lr=1"]
SWAPPED = ["--model.lr_bounds.base_lr=2", "--model.lr_bounds.max_lr=1"]
STEEP = ["--schedule=OneCycle", "--schedule.pct_start=7"]
DECAY = ["--optimizer=SGD", "--lr_scheduler=ExponentialLR", "--lr_scheduler.gamma=0.9"]
REFUSED = {
    "unknown schedule": (Scheduled, ["--model.schedule=TwoCycle"], '"model.schedule".*TwoCycle'),
    "unknown attached schedule": (Plain, ["--schedule=TwoCycle"], '"schedule".*TwoCycle'),
    "wrong type": (Scheduled, [*CYCLIC, "--model.schedule.cycles=x"], '"model.schedule".*"cycles".*Given value: x'),
    "outside its range": (Plain, STEEP, r"error: --schedule: `pct_start` must lie in \[0, 1\], got 7.0"),
    "wrong order": (Scheduled, SWAPPED, r"error: --model\.lr_bounds: `base_lr` must be at most .* Swap the two bounds"),
    "schedule both ways": (Scheduled, ["--schedule=OneCycle"], "--schedule .* Scheduled has it: use --model.schedule"),
    "bounds both ways": (Scheduled, BOUNDS, "--lr_bounds .* Scheduled has it: use --model.lr_bounds"),
    "bounds without schedule": (Plain, BOUNDS, "--lr_bounds needs a schedule"),
    "two schedules": (Plain, ["--schedule=OneCycle", *DECAY], "--schedule and --lr_scheduler contradict"),
    "two, one of the mixin": (Scheduled, [*CYCLIC, *DECAY], "--model.schedule and --lr_scheduler contradict"),
}


def refusal(capsys, model, *flags):
    """What is said before the program ends, as all command lines do where flags are wrong."""
    with pytest.raises(SystemExit) as ended:
        command(model, *flags)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(("model", "flags", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_flags_are_refused_by_name(model, flags, told, capsys):
    """Before anything is trained."""
    assert re.search(told, refusal(capsys, model, "fit", *flags), re.DOTALL)


def test_training_that_resumes_is_not_tested(capsys):
    """It has its bounds already."""
    assert "--ckpt_path: a training that resumes" in refusal(capsys, Plain, "range_test", "--ckpt_path=some.ckpt")


class Decaying(Plain):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


def test_schedule_is_not_attached_beside_another():
    """Which only training set-up can tell."""
    with pytest.raises(ValueError, match=r"OneCycle can be attached where .* that of Decaying returns tuple with"):
        command(Decaying, "fit", "--schedule=OneCycle")


def printed(capsys, *flags):
    with pytest.raises(SystemExit):
        command(Scheduled, *flags)
    return " ".join(capsys.readouterr().out.split())


def test_help_is_what_the_documentation_says(capsys):
    """Of the mixin, of a schedule, of the callback, of the subcommand."""
    assert "The learning rate policy" in printed(capsys, "fit", "--help")
    assert "Fraction of training spent rising" in printed(capsys, "fit", "--model.schedule.help=OneCycle")
    assert "Length of the sweep in optimizer steps" in printed(capsys, "fit", "--trainer.callbacks.help=LRRangeTest")
    assert "Print one JSON object, and nothing else" in printed(capsys, "range_test", "--help")


def test_configuration_is_printed_whole(capsys):
    """With every argument of the schedule chosen, ready for a file."""
    configuration = printed(capsys, "fit", *CYCLIC, "--print_config")

    assert "class_path: lightning_clr.Cyclic init_args: step_size: 4 cycles: null mode: triangular" in configuration


def run(*flags):
    """The completed process of a command line of its own."""
    line = [sys.executable, str(SUPPORT / "command.py"), *flags, *QUIET]
    return subprocess.run(line, env=environment(), capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.processes
def test_json_is_alone_on_stdout():
    """Whatever modules print, on two ranks."""
    flags = ["--model=support.command.Talkative", "--json", "--trainer.strategy=ddp", "--trainer.devices=2"]

    done = run("range_test", *flags)

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["base_lr"] > 0


@pytest.mark.processes
def test_schedule_and_optimizer_reach_spawned_processes():
    """Where LightningCLI itself loses the optimizer."""
    spawned = ["--trainer.strategy=ddp_spawn", "--trainer.devices=2", "--optimizer=Adam"]

    done = run("fit", "--model=support.command.Untold", "--schedule=OneCycle", *spawned)

    assert done.stdout.count("trained by Adam and ScheduleLR") == 2, done.stderr
