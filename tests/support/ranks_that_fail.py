"""Run by every rank of a test: a sweep in which the ranks given as JSON fail at a hot learning rate.

Usage: python ranks_that_fail.py "[0, 1]" EXCEPTION FOLDER
"""

import builtins
import json
import os
import sys
import warnings
from pathlib import Path

import torch

import lightning_clr.trial.votes
from support.exactness import SWEEP, Case, Ends, WithoutTrial, run
from support.models import Scheduled
from support.processes import end_here

lightning_clr.trial.votes._PATIENCE = 5.0


class Fails(Scheduled):
    """In the forward pass, before the gradients of the ranks are summed."""

    def loss(self, batch):
        hot = self.optimizers().param_groups[0]["lr"] > 0.2
        if hot and Ends.on and self.global_rank in json.loads(sys.argv[1]):
            raise getattr(builtins, sys.argv[2])("the real error")
        return super().loss(batch)


def main(folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = Case(Fails, trainer={"strategy": "ddp", "devices": 2})
    settings = {**SWEEP, "num_steps": 40, "closer_look": False}
    test = Ends(**settings)
    tested, untested = run(case, test), run(case, WithoutTrial(**settings))
    found = {"alike": tested == untested, "result": test.found.state_dict()}
    Path(folder, f"{os.environ.get('LOCAL_RANK', 0)}.json").write_text(json.dumps(found))
    end_here()


if __name__ == "__main__":
    main(sys.argv[3])
