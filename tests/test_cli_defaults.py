"""What the command line takes for granted, and which of two bounds it says count."""

import json
import warnings
from pathlib import Path

import pytest
from pytorch_lightning import LightningDataModule

from lightning_clr import CLRCLI, LRBounds, Schedule
from support.data import loader
from support.models import Scheduled

SILENT = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Net(Scheduled):
    def __init__(self, schedule: Schedule | None = None, lr_bounds: LRBounds | None = None):
        super().__init__(schedule=schedule, lr_bounds=lr_bounds)
        self.save_hyperparameters()


class Data(LightningDataModule):
    def train_dataloader(self):
        return loader()


def run(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*args parameter.*")
        return CLRCLI(
            Net,
            Data,
            args=[*args],
            trainer_defaults=SILENT,
            save_config_callback=None,
            seed_everything_default=1,
            **kwargs,
        )


@pytest.mark.parametrize("own", [False, True])
def test_range_test_has_the_default_configuration_of_fit(own, capsys):
    """Its `default_config_files`, unless it has some of its own."""
    test = {"class_path": "lightning_clr.LRRangeTest", "init_args": {"num_steps": 20, "closer_look": False}}
    for steps, name in ((20, "fit.yaml"), (30, "own.yaml")):
        test["init_args"]["num_steps"] = steps
        Path(name).write_text(json.dumps({"trainer": {"max_epochs": 1, "callbacks": [test]}}))
    defaults = {"fit": {"default_config_files": ["fit.yaml"], "description": "Train."}}
    if own:
        defaults["range_test"] = {"default_config_files": ["own.yaml"]}

    cli = run("range_test", parser_kwargs=defaults)

    assert cli.config.range_test.trainer.max_epochs == 1
    assert cli.config.range_test.trainer.callbacks[0].init_args.num_steps == (30 if own else 20)
    assert "LR range test" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:The checkpoint was made for", "ignore:.*exists and is not empty")
def test_bounds_beside_a_checkpoint_are_told_not_to_count():
    """The checkpoint's do; it resumes again and again, with bounds among its hyper-parameters."""
    epochs = "--trainer.max_epochs="
    first = run("fit", f"{epochs}1", "--trainer.callbacks+=lightning_clr.LRRangeTest", "--model.schedule=OneCycle")
    first.trainer.save_checkpoint("first.ckpt")
    found = first.model.lr_bounds
    assert first.model.hparams.lr_bounds == vars(found)

    with pytest.warns(
        UserWarning, match=r"--model\.lr_bounds: .* --ckpt_path=first\.ckpt, where the checkpoint's bounds"
    ):
        second = run(
            "fit",
            f"{epochs}2",
            "--ckpt_path=first.ckpt",
            "--model.lr_bounds.base_lr=0.001",
            "--model.lr_bounds.max_lr=0.01",
        )
    second.trainer.save_checkpoint("second.ckpt")
    third = run("fit", f"{epochs}3", "--ckpt_path=second.ckpt")

    for cli in (second, third):
        assert cli.trainer.lr_scheduler_configs[0].scheduler.bounds == found
        assert cli.model.hparams.lr_bounds == vars(found)
