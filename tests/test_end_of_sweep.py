"""What keeps a step from giving a value is the end of a sweep that has recorded enough, and else an error."""

import json
import math
import random
import sys

import pytest
import torch
from torch.distributions import Normal

from lightning_clr import lr_range_test
from lightning_clr.divergence import Divergence
from lightning_clr.plan import SweepPlan
from support.data import loader
from support.exactness import SWEEP, Case, Ends, WithoutTrial, run
from support.models import Bounded, Plain
from support.processes import SUPPORT, environment, free_port, run_together
from support.searches import two_sweeps
from support.training import quiet_trainer


class Fails(Plain):
    """From one step on, in one of many ways."""

    step, kind = 15, ValueError("weights exploded")

    def training_step(self, batch, batch_idx):
        self.seen = getattr(self, "seen", 0) + 1
        loss = super().training_step(batch, batch_idx)
        if self.seen <= self.step:
            return loss
        if isinstance(self.kind, BaseException):
            raise self.kind
        return None if self.kind is None else loss * self.kind


def failing(way, after=15):
    return type("Failing", (Fails,), {"kind": way, "step": after})()


def found(module, **settings):
    settings = {"min_lr": 1e-3, "max_lr": 10.0, "num_steps": 30, "closer_look": False, **settings}
    return lr_range_test(quiet_trainer(), module, loader(), **settings)


WAYS = {
    "exception": (ValueError("weights exploded"), "ValueError: weights exploded"),
    "assertion": (AssertionError(), "AssertionError"),
    "exit": (SystemExit(1), "SystemExit: 1"),
    "StopIteration": (StopIteration(), "RuntimeError: `training_step` raised StopIteration"),
    "None": (None, "ValueError: A range test needs optimizer steps"),
}


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize(("way", "told"), WAYS.values(), ids=WAYS)
def test_failing_step_ends_a_sweep_that_has_enough_points(way, told):
    result = found(failing(way))
    (curve,) = result.curves

    assert len(curve.losses) == 15
    assert math.isnan(curve.values[-1])
    assert curve.lrs[-1] == pytest.approx(1e-3 * 1e4 ** (15 / 29))
    assert curve.ended_by.startswith(told)
    assert told in result.summary()
    assert result.bounds is None or result.bounds.max_lr < curve.lrs[-1]
    assert type(result).from_state_dict(result.state_dict()).curves[0].ended_by == curve.ended_by


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize(("way", "told"), WAYS.values(), ids=WAYS)
def test_failing_step_with_too_few_points_is_told_with_its_learning_rate(way, told):
    with pytest.raises(BaseException, match=told.partition(": ")[2] or None) as raised:
        found(failing(way, 6))

    assert raised.type.__name__ == told.partition(":")[0]
    assert "step 7" in raised.value.__notes__[0]
    assert "learning rate of 0.0067" in raised.value.__notes__[0]


def test_ctrl_c_is_no_end_of_a_sweep():
    with pytest.raises(SystemExit):  # Lightning's answer
        found(failing(KeyboardInterrupt()))


def test_value_that_is_not_finite_ends_it_as_ever():
    result = found(failing(math.nan))

    assert (len(result.curves[0].losses), result.curves[0].ended_by) == (15, "")


def test_second_sweep_needs_no_points_of_its_own():
    """The first has enough."""

    class Twice(Bounded):
        last, sweeps = math.inf, 0

        def training_step(self, batch, batch_idx):
            lr = self.optimizers().param_groups[0]["lr"]
            Twice.last, Twice.sweeps = lr, Twice.sweeps + (lr < Twice.last)
            if Twice.sweeps == 2:
                raise ValueError("again")
            return super().training_step(batch, batch_idx)

    result = lr_range_test(quiet_trainer(), Twice(), loader(), num_steps=20, search=two_sweeps)

    assert [curve.ended_by for curve in result.curves] == ["", "ValueError: again"]
    assert result.closer_lrs[0] == result.curves[1].lrs[0]


def test_error_of_the_search_is_no_end_of_a_sweep():
    def search(settings):
        def ends_when(curve):
            return 1 / (20 - len(curve.lrs)) < 0

        yield SweepPlan(1e-4, 1.0, 30, ends_when=ends_when)

    with pytest.raises(ZeroDivisionError):
        lr_range_test(quiet_trainer(), Plain(), loader(), search=search)


class Gaussian(Plain):
    """A scale that is NaN is refused by its distribution, in the forward pass, before there is a loss."""

    def loss(self, batch):
        if Ends.on and self.trainer.optimizers[0].param_groups[0]["lr"] > 0.3:
            self.head.weight.data.fill_(math.nan)
        return (
            super().loss(batch)
            + 0 * Normal(0.0, self(batch[0]).exp(), validate_args=True).log_prob(torch.zeros(())).mean()
        )


class Halfway(Plain):
    """Fails in the backward pass, with one parameter frozen meanwhile, a seed spent and gradients half made."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)

    def on_before_optimizer_step(self, optimizer):
        self.body.bias.requires_grad_(False)
        random.random()
        torch.rand(3)
        if self.trainer.optimizers[0].param_groups[0]["lr"] > 0.05 and self.calls >= 12 and Ends.on:
            sys.exit("too far")
        self.body.bias.requires_grad_(True)


@pytest.mark.parametrize(("module", "sweep"), [(Gaussian, {"num_steps": 40}), (Halfway, {"num_steps": 20})])
@pytest.mark.parametrize("trainer", [{}, {"accumulate_grad_batches": 2}], ids=repr)
def test_training_after_it_is_bit_identical_to_training_without(module, sweep, trainer):
    settings = {**SWEEP, "closer_look": False, **sweep}
    test = Ends(**settings)
    case = Case(module, trainer=trainer)
    tested = run(case, test)

    assert test.found.curves[0].ended_by
    assert tested == run(case, WithoutTrial(**settings))


@pytest.mark.parametrize(("batch_size", "most"), [(1, 2), (2, 4), (4, 20)])
def test_noise_of_small_batches_is_no_divergence(batch_size, most):
    """Squared errors of a fit that does not move; half of 200 such sweeps end early if noise is not asked for."""
    ended = 0
    for seed in range(200):
        generator, has_diverged = random.Random(seed), Divergence(4.0)
        losses = [sum(generator.gauss(0, 1) ** 2 for _ in range(batch_size)) / batch_size for _ in range(100)]
        ended += any(map(has_diverged, losses))

    assert ended <= most


def test_divergence_in_batches_of_one_is_seen():
    generator = random.Random(0)
    has_diverged = Divergence(4.0)
    losses = [generator.gauss(0, 1) ** 2 * (1 if step < 60 else 2 ** (step - 60)) for step in range(90)]

    assert 62 <= [has_diverged(loss) for loss in losses].index(True) <= 70


@pytest.mark.parametrize(
    ("losses", "end"),
    [
        ([2.0] * 10 + [0.5] * 5 + [2500.0], 15),
        ([2.0] * 10 + [1e-6] * 5 + [1e-2] * 20, None),  # a loss at zero: a factor means nothing
        ([5.0, 4.0, -3.0, -3.0, -3.0, -3.0, -3.0, 6e3], 7),
        ([2.0] * 10 + [0.5] * 5 + [50.0, 0.5, 0.5], None),
        ([1.0, math.inf], 1),
    ],
)
def test_one_value_beyond_all_noise_ends_a_sweep_at_once(losses, end):
    has_diverged = Divergence(4.0)
    told = [has_diverged(loss) for loss in losses]

    assert (told.index(True) if any(told) else None) == end


def test_none_stops_but_at_nan():
    has_diverged = Divergence(None)

    assert [has_diverged(loss) for loss in (1.0, 1e9, math.nan)] == [False, False, True]


def ranks_that_fail(failing, error, folder):
    """Two real processes; more than two hundred seconds are taken for a hang."""
    script = SUPPORT / "ranks_that_fail.py"
    command = [sys.executable, str(script), json.dumps(failing), error, str(folder)]
    (folder / "run").mkdir()  # its files are compared
    (done,) = run_together(
        [{"args": command, "cwd": folder / "run", "env": environment(MASTER_PORT=free_port())}], seconds=200
    )
    return done, [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


@pytest.mark.processes
@pytest.mark.parametrize("error", ["ValueError", "SystemExit"])
def test_ranks_that_fail_alike_end_the_sweep_together(error, tmp_path):
    done, (first, second) = ranks_that_fail([0, 1], error, tmp_path)

    assert done.returncode == 0
    assert first["alike"]
    assert second["alike"]
    assert repr(first["result"]) == repr(second["result"])
    assert first["result"]["curves"][0]["ended_by"] == f"{error}: the real error"


@pytest.mark.processes
@pytest.mark.parametrize("rank", [0, 1])
def test_rank_that_fails_alone_raises_and_ends_the_others(rank, tmp_path):
    done, found = ranks_that_fail([rank], "ValueError", tmp_path)

    assert done.returncode != 0
    assert "ValueError: the real error" in done.stderr
    assert found == []
