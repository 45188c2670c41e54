"""Both Lightning packages, `pytorch_lightning` and `lightning.pytorch`, whose classes are distinct."""

import subprocess
import sys

import lightning.pytorch as lightning_pytorch
import pytest
import pytorch_lightning
import torch

from lightning_clr import Cyclic, LRRangeTest, OneCycle, lr_range_test
from lightning_clr.lightning import lightning_name, package_of
from support.data import loader
from support.training import quiet_trainer
from support.twins import PLAIN, RECORDERS, SCHEDULED, each_package

each_way = pytest.mark.parametrize("in_list", [True, False], ids=["in a list", "bare"])


def seeded(kind, **arguments):
    torch.manual_seed(5)
    return kind(**arguments)


def found_by(package, in_list=True):
    """The result of the range test of a fit."""
    test = LRRangeTest()
    trainer = quiet_trainer(package.Trainer, max_epochs=1, callbacks=[test] if in_list else test)
    trainer.fit(seeded(PLAIN[package]), loader())
    return test.result


@each_package
@each_way
def test_callback_runs(package, in_list):
    """As one of several, or given alone; the trainer of either package takes it for its own."""
    assert isinstance(LRRangeTest(), package.Callback)

    assert found_by(package, in_list).bounds is not None


def test_both_packages_find_the_same_bounds():
    """The whole curve is the same, to the last bit."""
    assert found_by(pytorch_lightning) == found_by(lightning_pytorch)


@each_package
def test_function_runs(package):
    """And gives what the callback gives."""
    trainer = quiet_trainer(package.Trainer, max_epochs=1)

    assert lr_range_test(trainer, seeded(PLAIN[package]), loader()) == found_by(package)


@each_package
@each_way
def test_bounds_reach_the_mixin(package, in_list):
    """Training rises from `base_lr` and reaches `max_lr`."""
    test, lrs = LRRangeTest(), []
    module = seeded(SCHEDULED[package], schedule=Cyclic(step_size=4))
    module.on_before_optimizer_step = lambda optimizer: lrs.append(optimizer.param_groups[0]["lr"])

    quiet_trainer(package.Trainer, max_epochs=1, callbacks=[test] if in_list else test).fit(module, loader())

    during_training = lrs[-16:]
    assert during_training[0] == pytest.approx(test.result.bounds.base_lr)
    assert during_training[4] == max(during_training) == pytest.approx(test.result.bounds.max_lr)


@each_package
def test_total_steps_follow_the_accumulation_of_either_package(package):
    """The callback that changes the accumulation is the package's own class."""
    module = SCHEDULED[package](schedule=OneCycle())
    accumulation = package.callbacks.GradientAccumulationScheduler({0: 4, 1: 2})

    quiet_trainer(package.Trainer, max_epochs=2, callbacks=[accumulation]).fit(module, loader())

    assert module.lr_schedulers().total_steps == 12


def trained(package, max_epochs, ckpt_path=None):
    """The test, the learning rates of a training with it, and the trainer."""
    test, lrs = LRRangeTest(), RECORDERS[package]()
    module = seeded(SCHEDULED[package], schedule=Cyclic(step_size=5))
    trainer = quiet_trainer(package.Trainer, max_epochs=max_epochs, callbacks=[test, lrs])
    trainer.fit(module, loader(), ckpt_path=ckpt_path)
    return test, lrs.seen, trainer


@pytest.mark.parametrize(
    ("first", "second"),
    [(pytorch_lightning, lightning_pytorch), (lightning_pytorch, pytorch_lightning)],
    ids=["from pytorch_lightning", "from lightning.pytorch"],
)
def test_checkpoint_resumes_in_the_other_package(first, second):
    """The result is read back instead of measured, and the rates go on as in one uninterrupted training."""
    _, uninterrupted, _ = trained(first, 2)
    test, _, trainer = trained(first, 1)
    trainer.save_checkpoint("half.ckpt")

    resumed, lrs, _ = trained(second, 2, ckpt_path="half.ckpt")

    assert resumed.result == test.result
    assert lrs == uninterrupted[16:]


@each_package
def test_package_is_told_by_the_trainer(package):
    """Also for a subclass of the user's."""
    trainer = type("MyTrainer", (package.Trainer,), {})(barebones=True)

    assert package_of(trainer) == package.__name__
    assert lightning_name(trainer, "callbacks", "ProgressBar") is package.callbacks.ProgressBar


@pytest.mark.parametrize("other", [torch.nn.Linear(1, 1), next(iter(PLAIN.values()))()], ids=["torch's", "Lightning's"])
def test_what_is_no_trainer_is_refused(other):
    """By name."""
    with pytest.raises(TypeError, match=f"`trainer` must be a Lightning Trainer, got {type(other).__name__}"):
        package_of(other)


ONLY_PYTORCH_LIGHTNING = """
from lightning_clr import LRRangeTest
import pytorch_lightning, sys

assert issubclass(LRRangeTest, pytorch_lightning.Callback)
callbacks = {base for base in LRRangeTest.__mro__ if base.__name__ == "Callback"}
assert {base.__module__.split(".")[0] for base in callbacks} == {"lightning_clr", "pytorch_lightning"}, callbacks
"""
NOT_INSTALLED = """
import sys

class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "lightning":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked)
"""
ONLY_LIGHTNING = (
    NOT_INSTALLED.replace('"lightning"', '"pytorch_lightning"')
    + """
import lightning_clr
import lightning.pytorch as L
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

class Net(lightning_clr.CLRMixin, BoringModel):
    def configure_optimizers(self):
        return self.with_schedule(super().configure_optimizers()[0])

test, net = lightning_clr.LRRangeTest(), Net()
trainer = L.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, accelerator="cpu", callbacks=test)
trainer.fit(net, BoringDataModule())
assert net.lr_schedulers().last_epoch == 64 and len(test.result.lrs) > 9
sys.argv = ["train.py", "--trainer.logger=false", "--data=lightning.pytorch.demos.boring_classes.BoringDataModule"]
assert isinstance(lightning_clr.CLRCLI(Net, run=False).trainer, L.Trainer)
"""
)
BROKEN = """
import os, sys

os.mkdir("lightning")
open("lightning/__init__.py", "w").write("raise RuntimeError('made for another torch')")
sys.path.insert(0, os.getcwd())
"""


@pytest.mark.processes
@pytest.mark.parametrize("lightning", [NOT_INSTALLED, BROKEN], ids=["not installed", "broken"])
def test_package_that_cannot_be_imported_is_done_without(lightning):
    """The callback is then a callback of `pytorch_lightning` only."""
    script = lightning + ONLY_PYTORCH_LIGHTNING

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


@pytest.mark.processes
def test_package_of_the_trainer_may_be_the_only_one():
    """Callback, mixin and command line need no `pytorch_lightning`."""
    done = subprocess.run([sys.executable, "-c", ONLY_LIGHTNING], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
