"""Optimizer steps count whoever makes them: wrappers, sharpness-aware minimization, closures, mixed precision."""

import collections
import copy
import itertools
import math

import pytest
import pytorch_optimizer
import torch
import torch_optimizer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.optim import SGD
from torch.optim.optimizer import _global_optimizer_post_hooks

from lightning_clr import CLRMixin, Cyclic, LRBounds, LRRangeTest, ScheduleLR
from support.data import loader
from support.models import Plain
from support.training import quiet_trainer

pytestmark = pytest.mark.filterwarnings("ignore:The range test cannot put back itertools.count")  # the tests' own


class NoHooks(torch.optim.Optimizer):
    """A wrapper that has never called torch's constructor."""

    def __init__(self, inner):
        self.inner = inner
        self.param_groups, self.defaults, self.state = inner.param_groups, inner.defaults, inner.state

    def step(self, closure=None):
        return self.inner.step(closure)

    def zero_grad(self, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state_dict):
        self.inner.load_state_dict(state_dict)


class SilentHooks(NoHooks):
    """A wrapper whose hooks can be registered and are never called."""

    def __init__(self, inner):
        super().__init__(inner)
        self._optimizer_step_pre_hooks = collections.OrderedDict()
        self._optimizer_step_post_hooks = collections.OrderedDict()


class CopiedGroups(NoHooks):
    """A wrapper with groups of its own, as others have once they have loaded a checkpoint."""

    def __init__(self, inner):
        super().__init__(inner)
        self.param_groups = [dict(group) for group in inner.param_groups]


class Duck:
    """What Lightning asks of an optimizer, and no more."""

    def __init__(self, inner):
        self.inner = inner
        self.param_groups, self.defaults, self.state = inner.param_groups, inner.defaults, inner.state

    step, zero_grad = NoHooks.step, NoHooks.zero_grad
    state_dict, load_state_dict = NoHooks.state_dict, NoHooks.load_state_dict


class NeedsClosure(torch.optim.Optimizer):
    """Sharpness-aware minimization whose ``step`` evaluates the model twice."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner

    @torch.no_grad()
    def step(self, closure):
        loss = torch.enable_grad()(closure)()
        moved = [(p, 0.01 * p.grad) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter, offset in moved:
            parameter.add_(offset)
        torch.enable_grad()(closure)()
        for parameter, offset in moved:
            parameter.sub_(offset)
        self.inner.step()
        return loss


WRAPPERS = {
    "torch_optimizer": torch_optimizer.Lookahead,
    "pytorch_optimizer": pytorch_optimizer.Lookahead,
    "no hooks": NoHooks,
    "silent hooks": SilentHooks,
    "copied groups": CopiedGroups,
    "protocol only": Duck,
    "required closure": NeedsClosure,
}
wrappers = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
BOUNDS = LRBounds(0.1, 0.5)


class Wrapped(Plain):
    """Notes the learning rate that the innermost optimizer steps with."""

    def __init__(self, wrap=lambda optimizer: optimizer):
        super().__init__()
        self.wrap, self.lrs = wrap, []

    def make_optimizer(self):
        inner = SGD(self.parameters(), lr=0.1)
        step = inner.step

        def noted(closure=None):
            result = step(closure)
            self.lrs.append(inner.param_groups[0]["lr"])
            return result

        inner.step = noted
        return self.wrap(inner)

    def configure_optimizers(self):
        return self.make_optimizer()


class WrappedMixin(CLRMixin, Wrapped):
    def __init__(self, wrap=lambda optimizer: optimizer):
        super().__init__(wrap, schedule=Cyclic(step_size=4), lr_bounds=BOUNDS)

    def configure_optimizers(self):
        return self.with_schedule(self.make_optimizer())


UP_AND_DOWN = pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.4, 0.3])


def half_precision(scale=2.0):
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000))


@wrappers
def test_schedule_moves_with_every_wrapper(wrap):
    """One position per step, although some call the step of another optimizer, or evaluate twice."""
    module = WrappedMixin(wrap)
    quiet_trainer(max_epochs=1, limit_train_batches=7).fit(module, loader())

    assert module.lrs == UP_AND_DOWN


@wrappers
def test_range_test_sweeps_every_wrapper(wrap):
    """Each batch is a step, and the rising learning rate reaches the optimizer that steps."""
    module, test = Wrapped(wrap), LRRangeTest(num_steps=30, closer_look=False)
    losses, loss = itertools.count(), module.loss  # which no trial puts back
    module.loss = lambda batch: loss(batch) if next(losses) >= 0 else None
    quiet_trainer(max_epochs=1, limit_train_batches=3, callbacks=[test]).fit(module, loader())

    assert len(test.result.lrs) >= 25
    evaluations = 2 if wrap is NeedsClosure else 1
    assert next(losses) - 3 * evaluations <= evaluations * (len(test.result.lrs) + 1)
    assert module.lrs[-3:] == pytest.approx([test.result.bounds.max_lr / 2] * 3)


class Overflows(WrappedMixin):
    """The gradient of the fourth step is infinite."""

    def on_after_backward(self):
        if self.trainer.fit_loop.epoch_loop.batch_idx == 3:
            self.head.weight.grad.fill_(math.inf)


@pytest.mark.parametrize(
    "wrap", [lambda optimizer: optimizer, NoHooks, SilentHooks], ids=["plain", "no hooks", "silent hooks"]
)
def test_step_that_mixed_precision_skips_is_none_with_every_wrapper(wrap):
    """Whether the hooks tell, or only the gradients."""
    module = Overflows(wrap)
    module.on_before_optimizer_step = lambda optimizer: module.lrs.append(-optimizer.param_groups[0]["lr"])
    quiet_trainer(max_epochs=1, limit_train_batches=7, plugins=[half_precision()]).fit(module, loader())

    tried = [-lr for lr in module.lrs if lr < 0]
    assert tried == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.5, 0.4])


class SkipsBatches(WrappedMixin):
    """Every other batch has no loss."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) if batch_idx % 2 else None


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("plugins", [[], [half_precision()]], ids=["single precision", "half precision"])
def test_batch_without_loss_advances_the_schedule(plugins):
    """It is in the plan; a scaler makes no difference."""
    module = SkipsBatches()
    quiet_trainer(max_epochs=1, limit_train_batches=8, plugins=copy.deepcopy(plugins)).fit(module, loader())

    assert module.lr_schedulers().last_epoch == 8


class ByHand(Wrapped):
    """SAM's two halves in manual optimization, of which Lightning counts none."""

    automatic_optimization = False
    accumulated = 1

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = self.loss(batch)
        self.manual_backward(loss)
        if (batch_idx + 1) % self.accumulated == 0:
            optimizer.first_step(zero_grad=True)
            self.manual_backward(self.loss(batch))
            optimizer.second_step(zero_grad=True)
        return loss

    def configure_optimizers(self):
        return pytorch_optimizer.SAM(self.parameters(), SGD, lr=0.1)


class WritesWeights(Wrapped):
    """No optimizer steps: the user's code reads the learning rate and does it."""

    automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        loss = self.loss(batch)
        optimizer.zero_grad()
        self.manual_backward(loss)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter -= optimizer.param_groups[0]["lr"] * parameter.grad
        return loss


class AccumulatesByHand(ByHand):
    accumulated = 2


class TrainsSomethingElse(AccumulatesByHand):
    """An optimizer of the user's steps at every batch, and is not the one that is swept."""

    def training_step(self, batch, batch_idx):
        noise = torch.nn.Parameter(torch.ones(1))
        noise.sum().backward()
        SGD([noise], lr=0.1).step()
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("make", "batches_a_step"),
    [(ByHand, 1), (WritesWeights, 1), (AccumulatesByHand, 2), (TrainsSomethingElse, 2)],
    ids=["SAM", "weights written", "SAM, accumulated", "another optimizer"],
)
def test_steps_made_by_hand_count(make, batches_a_step):
    """Whatever they are called."""
    test, batches, module = LRRangeTest(num_steps=30, closer_look=False), itertools.count(), make()
    module.on_train_batch_start = lambda batch, batch_idx: None if next(batches) >= 0 else -1
    quiet_trainer(max_epochs=1, limit_train_batches=4, callbacks=[test]).fit(module, loader())

    assert len(test.result.lrs) >= 25
    in_sweep, counted = next(batches) - 4, len(test.result.lrs)
    assert batches_a_step * counted <= in_sweep <= batches_a_step * (counted + 1)


class Lbfgs(Plain):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


def test_optimizer_that_drives_the_training_step_is_swept():
    """Several evaluations a step are one step."""
    test = LRRangeTest(num_steps=25, closer_look=False)
    quiet_trainer(max_epochs=1, limit_train_batches=2, callbacks=[test]).fit(Lbfgs(), loader())

    assert len(test.result.lrs) >= 5


class ScheduleFree(SGD):
    """Like those of schedulefree and pytorch_optimizer: refuses to step unless it was told that this is training."""

    def train(self):
        self.param_groups[0]["train_mode"] = True

    def eval(self):
        self.param_groups[0]["train_mode"] = False

    def step(self, closure=None):
        if not self.param_groups[0].get("train_mode"):
            raise RuntimeError("not in train mode")
        return super().step(closure)


class SwitchesModes(Plain):
    def configure_optimizers(self):
        return ScheduleFree(self.parameters(), lr=0.1)

    def on_train_epoch_start(self):
        self.optimizers(use_pl_optimizer=False).train()

    def on_validation_epoch_start(self):
        self.optimizers(use_pl_optimizer=False).eval()

    def on_validation_epoch_end(self):
        self.log("val_score", 1.0)


@pytest.mark.filterwarnings("ignore:LR range test. no bounds")
@pytest.mark.parametrize("monitor", [None, "val_acc"])
def test_schedule_free_optimizer_is_swept_in_its_training_mode(monitor):
    """The hooks that switch it do not run in a trial, and it is left as it was."""
    modes, test = (
        [],
        LRRangeTest(
            num_steps=20,
            closer_look=False,
            val_every_n_steps=2,
            monitor=monitor,
            monitor_mode="max" if monitor else "min",
        ),
    )
    module = SwitchesModes()
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=2, callbacks=[test], num_sanity_val_steps=0)
    module.on_train_start = lambda: modes.append(trainer.optimizers[0].param_groups[0].get("train_mode"))
    trainer.fit(module, loader(), loader(32))

    assert len(test.result.lrs) >= 5
    assert modes == [None]


def test_no_hook_is_left_after_the_test():
    """Neither on the optimizer nor on all optimizers."""
    before = len(_global_optimizer_post_hooks)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=2, callbacks=[LRRangeTest(num_steps=30)])
    trainer.fit(Plain(), loader())

    assert len(_global_optimizer_post_hooks) == before
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


def test_groups_that_loading_a_checkpoint_has_copied_are_written_to():
    """Wrappers share their groups with the optimizer within until they load a state."""
    inner = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = ScheduleLR(CopiedGroups(inner), Cyclic(step_size=4), None, BOUNDS)
    scheduler.step()

    assert inner.param_groups[0]["lr"] == pytest.approx(0.2)
    assert inner.param_groups[0]["momentum"] == pytest.approx(0.875)
