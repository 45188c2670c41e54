"""Learning rate policies as pure functions of the step.

Time is ``(step, total_steps)``: optimizer steps counted from 0. The first value belongs to step 0, the last to
``total_steps - 1``, and the last is held ever after. Phases shorter than one step are skipped. A schedule knows
neither torch nor Lightning; :class:`~lightning_clr.ScheduleLR` applies it to an optimizer.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_clr.bounds import LRBounds
from lightning_clr.checks import Frozen, require


class Schedule(metaclass=Frozen):
    """A learning rate policy: frozen, picklable, without state.

    Subclass it for a policy of your own; :meth:`lr` is all that it must have.

    Example:
        >>> class Constant(Schedule):
        ...     def lr(self, step, total_steps, bounds):
        ...         return bounds.max_lr
        >>> Constant().lr(7, 10, LRBounds(0.1, 1.0))
        1.0
    """

    div_factor: float = 1.0
    """``max_lr / base_lr`` where only one learning rate is known."""

    @abstractmethod
    def lr(self, step: int, total_steps: int | None, bounds: LRBounds) -> float:
        """Learning rate of optimizer step ``step``, counted from 0."""

    def momentum(self, step: int, total_steps: int | None) -> float | None:
        """Momentum (or Adam's beta1) of optimizer step ``step``; ``None`` leaves momentum alone."""
        return None

    def ends_cycle(self, step: int, total_steps: int | None) -> bool:
        """Whether optimizer step ``step`` is the last of a cycle: here, of training.

        Example:
            >>> [step for step in range(9) if OneCycle().ends_cycle(step, 8)]
            [7]
        """
        return total_steps is not None and step == total_steps - 1

    @property
    def needs_total_steps(self) -> bool:
        """Whether the policy cannot be computed without the length of training."""
        return True

    @property
    def peak_momentum(self) -> float | None:
        """Momentum at ``max_lr``; ``None`` if momentum is left alone."""
        return None

    def bounds_below(self, max_lr: float) -> LRBounds:
        """The bounds when only the upper one is known: ``base_lr = max_lr / div_factor``."""
        return LRBounds(max_lr / self.div_factor, max_lr)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Schedule):
    """One rise from ``base_lr`` to ``max_lr`` and one long fall far below ``base_lr``, momentum mirrored.

    The defaults are :class:`torch.optim.lr_scheduler.OneCycleLR`, number for number. ``anneal="smith"`` is the policy
    of Smith's own training logs (https://github.com/lnsmith54/hyperParam1): a linear rise over ``pct_start`` of
    training, a linear fall over as many steps *to zero*, and a constant tail at ``base_lr / final_div_factor``; use
    ``pct_start=0.45, final_div_factor=1000`` for his usual proportions.

    Args:
        pct_start: Fraction of training spent rising, in [0, 1]; at most 0.5 with three phases or Smith's policy.
        anneal: Shape of the legs: half a cosine, straight lines, or Smith's policy.
        div_factor: ``max_lr / base_lr`` where only ``max_lr`` is known. Ignored when both bounds are.
        final_div_factor: ``base_lr`` over the learning rate at the end of training.
        three_phase: Fall back to ``base_lr`` as steeply as the rise, then annihilate in a third phase.
        base_momentum: Momentum (or Adam's beta1) at ``max_lr``.
        max_momentum: Momentum at the start and at the end.
        cycle_momentum: Whether momentum moves at all.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> schedule = OneCycle(pct_start=0.5, anneal="linear", final_div_factor=10)
        >>> [round(schedule.lr(step, 10, LRBounds(0.1, 1.0)), 4) for step in (0, 2, 4, 9, 99)]
        [0.1, 0.55, 1.0, 0.01, 0.01]
        >>> [round(schedule.momentum(step, 10), 4) for step in (0, 2, 4, 9)]
        [0.95, 0.9, 0.85, 0.95]

    References:
        Smith and Topin, Super-Convergence, https://arxiv.org/abs/1708.07120, section 3;
        Smith, A disciplined approach …, https://arxiv.org/abs/1803.09820, section 4.1.
    """

    pct_start: float = 0.3
    anneal: Literal["cos", "linear", "smith"] = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False
    base_momentum: float = 0.85
    max_momentum: float = 0.95
    cycle_momentum: bool = True

    def __post_init__(self) -> None:
        require("anneal", self.anneal, 'be "cos", "linear" or "smith"', lambda name: name in ("cos", "linear", "smith"))
        require("pct_start", self.pct_start, "lie in [0, 1]", lambda pct: 0 <= pct <= 1)
        if self.three_phase or self.anneal == "smith":
            require(
                "pct_start",
                self.pct_start,
                "be at most 0.5 when the fall is as long as the rise",
                lambda pct: pct <= 0.5,
                "Choose a smaller one.",
            )
        if self.three_phase:
            require("anneal", self.anneal, 'be "cos" or "linear" with three phases', lambda name: name != "smith")
        _require_factor("div_factor", self.div_factor)
        _require_factor("final_div_factor", self.final_div_factor)
        _require_momenta(self.base_momentum, self.max_momentum)

    @property
    def peak_momentum(self) -> float | None:
        """``base_momentum``, if momentum moves."""
        return self.base_momentum if self.cycle_momentum else None

    def lr(self, step: int, total_steps: int | None, bounds: LRBounds) -> float:
        """Learning rate of optimizer step ``step`` of ``total_steps``."""
        total = _known(total_steps)
        if step >= total:
            step = total - 1
        last_lr = bounds.base_lr / self.final_div_factor
        if self.anneal == "smith":
            step_size = self._smith_step_size(total)
            if step >= min(2 * step_size, total - 1):
                return last_lr
            return _along([(0, bounds.base_lr), (step_size, bounds.max_lr), (2 * step_size, 0.0)], step, _linear)
        return self._along_phases(step, total, bounds.base_lr, bounds.max_lr, last_lr)

    def momentum(self, step: int, total_steps: int | None) -> float | None:
        """Momentum of optimizer step ``step``; ``None`` without ``cycle_momentum``."""
        if not self.cycle_momentum:
            return None
        total = _known(total_steps)
        if step >= total:
            step = total - 1
        high, low = self.max_momentum, self.base_momentum
        if self.anneal == "smith":  # a triangular2 wave that goes on, at half the amplitude, through the tail
            cycle, height = _triangle(step, self._smith_step_size(total), self._smith_step_size(total))
            return high - (high - low) * height * 0.5**cycle
        return self._along_phases(step, total, high, low, high)

    def _along_phases(self, step: int, total: int, start: float, peak: float, last: float) -> float:
        """Value at ``step`` on the way from ``start`` to ``peak``, with three phases back, and to ``last``."""
        ease = _cosine if self.anneal == "cos" else _linear
        # torch places the ends of its phases one step early, which keeps the peak inside training
        top = self.pct_start * total - 1
        if self.three_phase:
            return _along(((0.0, start), (top, peak), (2 * top, start), (total - 1, last)), step, ease)
        return _along(((0.0, start), (top, peak), (total - 1, last)), step, ease)

    def _smith_step_size(self, total: int) -> int:
        return max(1, round(self.pct_start * total))


@dataclass(frozen=True, kw_only=True)
class Cyclic(Schedule):
    """Cyclical learning rates: up and down between the bounds, again and again.

    Equals :class:`torch.optim.lr_scheduler.CyclicLR` number for number when ``step_size`` is given. Without it the step
    size follows from the length of training, so that training ends exactly at the end of a cycle, where the learning
    rate is lowest and accuracy peaks (Smith 2017, section 3.2).

    Args:
        step_size: Half a cycle in optimizer steps, 2 to 10 epochs in Smith's experience. Needs no total: suits
            training without a known end.
        cycles: Number of whole cycles in training, instead of ``step_size``. With neither, four.
        mode: ``"triangular"`` keeps the amplitude, ``"triangular2"`` halves it after each cycle, ``"exp_range"``
            multiplies it by ``gamma`` at every step.
        gamma: Decay of ``"exp_range"`` per optimizer step, in (0, 1].
        step_size_down: Optimizer steps of the falling half, if other than ``step_size``.
        scale_fn: Scale of the amplitude as a function of the cycle (from 1) or of the step (from 0), see
            ``scale_mode``. Replaces ``mode``.
        scale_mode: What ``scale_fn`` receives.
        decays: What the scale multiplies: the ``"amplitude"`` above ``base_lr``, as torch does, or both ``"bounds"``,
            as Smith's text says of exp_range.
        div_factor: ``max_lr / base_lr`` where only ``max_lr`` is known (Smith: three or four).
        base_momentum: Momentum (or Adam's beta1) at the top of a cycle.
        max_momentum: Momentum at its foot.
        cycle_momentum: Whether momentum moves at all.

    Raises:
        ValueError: If an argument is outside its range, or if arguments exclude each other.

    Example:
        >>> triangular2 = Cyclic(step_size=2, mode="triangular2")
        >>> [triangular2.lr(step, None, LRBounds(1.0, 3.0)) for step in range(9)]
        [1.0, 2.0, 3.0, 2.0, 1.0, 1.5, 2.0, 1.5, 1.0]
        >>> two_cycles = Cyclic(cycles=2)
        >>> [two_cycles.lr(step, 9, LRBounds(1.0, 3.0)) for step in range(9)]
        [1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0, 1.0]

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, https://arxiv.org/abs/1506.01186, section 3.
    """

    step_size: int | None = None
    cycles: int | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular"
    gamma: float = 1.0
    step_size_down: int | None = None
    scale_fn: Callable[[float], float] | None = None
    scale_mode: Literal["cycle", "iterations"] = "cycle"
    decays: Literal["amplitude", "bounds"] = "amplitude"
    div_factor: float = 4.0
    base_momentum: float = 0.8
    max_momentum: float = 0.9
    cycle_momentum: bool = True

    def __post_init__(self) -> None:
        for name in ("step_size", "step_size_down", "cycles"):
            value = getattr(self, name)
            if value is not None:
                require(name, value, "be a whole number of at least 1", lambda n: n >= 1 and n == int(n))
        if self.step_size is not None:
            require("cycles", self.cycles, "be left out when `step_size` is given", lambda n: n is None)
        else:
            require("step_size_down", self.step_size_down, "come with `step_size`", lambda n: n is None)
        modes = ("triangular", "triangular2", "exp_range")
        require("mode", self.mode, 'be "triangular", "triangular2" or "exp_range"', lambda name: name in modes)
        require("gamma", self.gamma, "lie in (0, 1]", lambda gamma: 0 < gamma <= 1)
        if self.scale_fn is not None:
            require("scale_fn", self.scale_fn, "be a function of one number", callable)
        scale_modes = ("cycle", "iterations")
        require("scale_mode", self.scale_mode, 'be "cycle" or "iterations"', lambda name: name in scale_modes)
        targets = ("amplitude", "bounds")
        require("decays", self.decays, 'be "amplitude" or "bounds"', lambda name: name in targets)
        _require_factor("div_factor", self.div_factor)
        _require_momenta(self.base_momentum, self.max_momentum)

    @property
    def needs_total_steps(self) -> bool:
        """Not when the step size is given."""
        return self.step_size is None

    @property
    def peak_momentum(self) -> float | None:
        """``base_momentum``, if momentum moves."""
        return self.base_momentum if self.cycle_momentum else None

    def lr(self, step: int, total_steps: int | None, bounds: LRBounds) -> float:
        """Learning rate of optimizer step ``step``; the total is needed only if there is no ``step_size``."""
        height, scale = self._height_and_scale(step, total_steps)
        if self.decays == "bounds":
            return (bounds.base_lr + (bounds.max_lr - bounds.base_lr) * height) * scale
        return bounds.base_lr + (bounds.max_lr - bounds.base_lr) * height * scale

    def momentum(self, step: int, total_steps: int | None) -> float | None:
        """Momentum of optimizer step ``step``; ``None`` without ``cycle_momentum``."""
        if not self.cycle_momentum:
            return None
        height, scale = self._height_and_scale(step, total_steps)
        return self.max_momentum - (self.max_momentum - self.base_momentum) * height * scale

    def ends_cycle(self, step: int, total_steps: int | None) -> bool:
        """Whether optimizer step ``step`` is the last of a cycle: the one at the foot, where ``lr`` is ``base_lr``.

        If training is no whole number of steps per cycle, so that a foot falls between two steps, the nearer one counts
        (the earlier of two equally near). A cycle that training breaks off has no end.

        Example:
            >>> three_up_one_down = Cyclic(step_size=3, step_size_down=1)
            >>> [step for step in range(12) if three_up_one_down.ends_cycle(step, None)]
            [4, 8]
            >>> [step for step in range(16) if Cyclic(cycles=3).ends_cycle(step, 16)]
            [5, 10, 15]
        """
        if self.step_size is not None:
            in_training = step > 0 and (total_steps is None or step < total_steps)
            return in_training and step % (self.step_size + (self.step_size_down or self.step_size)) == 0
        if super().ends_cycle(step, total_steps):
            return True
        cycles, last = self.cycles or 4, _known(total_steps) - 1
        # feet up to half a step after this step, and up to half a step before it
        return 0 < step < last and (2 * step + 1) * cycles // (2 * last) > (2 * step - 1) * cycles // (2 * last)

    def _height_and_scale(self, step: int, total_steps: int | None) -> tuple[float, float]:
        if total_steps is not None:
            step = min(step, total_steps - 1)
        if self.step_size is not None:
            cycle, height = _triangle(step, self.step_size, self.step_size_down or self.step_size)
        else:  # count in units of 1 / (2 * cycles) of training: the last step then falls exactly on a cycle's end
            cycles = self.cycles or 4
            half = max(_known(total_steps) - 1, 1)
            cycle, height = _triangle(2 * cycles * step, half, half)
        return height, self._scale(cycle, step)

    def _scale(self, cycle: int, step: int) -> float:
        """Scale in the given cycle, counted from 0, and step."""
        if self.scale_fn is not None:
            return self.scale_fn(cycle + 1 if self.scale_mode == "cycle" else step)
        if self.mode == "triangular2":
            return 0.5**cycle
        if self.mode == "exp_range":
            return self.gamma**step
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Sweep(Schedule):
    """The rising learning rate of a range test: both ends are hit exactly.

    Args:
        mode: ``"exponential"`` multiplies the learning rate by the same factor at each step; ``"linear"`` adds the same
            amount, as Smith does (Smith 2017, section 3.3).
        peak_momentum: Momentum (or Adam's beta1) throughout the sweep; ``None`` leaves it alone.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [round(Sweep().lr(step, 4, LRBounds(0.001, 1.0)), 6) for step in range(5)]
        [0.001, 0.01, 0.1, 1.0, 1.0]
        >>> [Sweep(mode="linear").lr(step, 4, LRBounds(1.0, 4.0)) for step in range(5)]
        [1.0, 2.0, 3.0, 4.0, 4.0]
    """

    mode: Literal["exponential", "linear"] = "exponential"
    peak_momentum: float | None = None

    def __post_init__(self) -> None:
        modes = ("exponential", "linear")
        require("mode", self.mode, 'be "exponential" or "linear"', lambda name: name in modes)
        if self.peak_momentum is not None:
            require("peak_momentum", self.peak_momentum, "lie in (0, 1)", lambda momentum: 0 < momentum < 1)

    def momentum(self, step: int, total_steps: int | None) -> float | None:
        """``peak_momentum`` at every step."""
        return self.peak_momentum

    def lr(self, step: int, total_steps: int | None, bounds: LRBounds) -> float:
        """Learning rate of optimizer step ``step`` of ``total_steps``."""
        last = _known(total_steps) - 1
        if step >= last:
            return bounds.max_lr if last else bounds.base_lr
        if self.mode == "linear":
            return _linear(bounds.base_lr, bounds.max_lr, step / last)
        return bounds.base_lr * math.pow(bounds.max_lr / bounds.base_lr, step / last)


def _known(total_steps: int | None) -> int:
    if not isinstance(total_steps, int) or total_steps < 1:
        require("total_steps", total_steps, "be known to this schedule", lambda total: total is not None)
        require("total_steps", total_steps, "be at least 1", lambda total: total >= 1)
        assert total_steps is not None
    return total_steps


def _triangle(step: int, up: int, down: int) -> tuple[int, float]:
    """Cycle, counted from 0, and height in [0, 1] of a triangular wave; whole numbers, so that nothing drifts."""
    cycle, position = divmod(step, up + down)
    return cycle, position / up if position <= up else (up + down - position) / down


def _along(knots: Sequence[tuple[float, float]], step: int, ease: Callable[[float, float, float], float]) -> float:
    """Value at ``step`` of the curve through ``knots``, pairs of position and value; zero-width legs are skipped."""
    start, value = knots[0]
    for end, target in knots:
        if start < end and step <= end:
            return ease(value, target, (step - start) / (end - start))
        start, value = end, target
    return value


def _linear(start: float, end: float, fraction: float) -> float:
    return (end - start) * fraction + start


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * fraction) + 1)


def _require_factor(name: str, value: float) -> None:
    require(name, value, "be finite and at least 1", lambda factor: 1 <= factor < math.inf)


def _require_momenta(base_momentum: float, max_momentum: float) -> None:
    require("base_momentum", base_momentum, "lie in (0, 1)", lambda momentum: 0 < momentum < 1)
    require(
        "max_momentum",
        max_momentum,
        f"lie in [`base_momentum` ({base_momentum}), 1)",
        lambda momentum: base_momentum <= momentum < 1,
    )
