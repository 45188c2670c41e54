"""How many optimizer steps a range test takes, and for what."""

import math

from lightning_clr.settings import USUAL_STEPS, Settings

_UNKNOWN_LENGTH = 1000
"""Length that a training without a known end is taken to have."""
_OF_SWEEP, _OF_RUN = 1 / 6, 1 / 8
"""Parts of the training that a sweep and a short run take."""
_FEWEST_SWEEP_STEPS = 50
_FEWEST_RUN_STEPS, _MOST_RUN_STEPS = 24, 125
_OF_JUDGED = 0.2
"""Part of a short run that counts, at its end. Of the benchmark's rows: a fifth 0.0200 mean regret, eight steps 0.0211,
three tenths 0.0215."""
_FEWEST_JUDGED = 8
_GOES_ON = 1.3
"""Length of a sweep that goes on from 10 to 1000, over that of one that does not."""
HOLD_STEPS, HOLD_JUDGED = 12, 4
"""Steps of the run that verifies what sweeps say, and those at its end that count; what blows up does so at once."""
_FEWEST_RUNS = 4
"""Short runs that the steps must suffice for, or none is made."""


class Budget:
    """The steps of a test: at most as many as training has, but no fewer than a sweep needs.

    Args:
        settings: Those of the test, with the length of training.

    Attributes:
        total: Steps of the whole test at most.
        spare_steps: Steps beyond these, in short trainings, to verify what one sweep says.
        sweep_steps: Steps of the first sweep.
        run_steps: Steps of a short run.
        judged_steps: Steps at its end that count.

    Example:
        >>> budget = Budget(Settings(training_steps=360))
        >>> budget.total, budget.sweep_steps, budget.run_steps, budget.judged_steps
        (360, 60, 45, 9)
        >>> Budget(Settings(training_steps=20)).total
        130
    """

    def __init__(self, settings: Settings) -> None:
        length = settings.training_steps or _UNKNOWN_LENGTH
        a_sweep = math.ceil(_GOES_ON * settings.sweep_steps)
        self.total = settings.budget or max(length, a_sweep)
        self.spare_steps = 0 if settings.budget else max(0, a_sweep + HOLD_JUDGED + 2 * HOLD_STEPS - self.total)
        usual = max(_FEWEST_SWEEP_STEPS, min(USUAL_STEPS, round(min(length, self.total) * _OF_SWEEP)))
        self.sweep_steps = min(settings.num_steps or usual, self.total)
        share = (self.total - self.sweep_steps) // (_FEWEST_RUNS + 1)
        self.run_steps = max(_FEWEST_RUN_STEPS, min(_MOST_RUN_STEPS, round(length * _OF_RUN), share))
        self.judged_steps = max(_FEWEST_JUDGED, round(self.run_steps * _OF_JUDGED))
        if settings.num_steps is None and not self.allows_runs(self.total - self.sweep_steps):
            self.sweep_steps = min(USUAL_STEPS, self.total)

    def allows_runs(self, left: int) -> bool:
        """Whether short runs can be made with the steps that are left, enough of them to tell something."""
        return left >= _FEWEST_RUNS * self.run_steps + self.judged_steps
