"""Run by the ranks of test_distributed.py: one training, whose trace each rank writes down.

Usage: python ranks.py STRATEGY DEVICES (with | without) FOLDER
"""

import json
import sys
import warnings
from pathlib import Path

import torch
from exactness import AfterTrial, Case, WithoutTrial, run
from models import Scheduled, loader, quiet_trainer
from pytorch_lightning import seed_everything

from lightning_clr import LRRangeTest


class Dropout(Scheduled):
    """Random numbers and running statistics that differ from rank to rank."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(16)

    def forward(self, x):
        return self.head(torch.nn.functional.dropout(self.norm(self.body(x)), 0.2, self.training))


class NaNOnRankOne(Scheduled):
    """Diverges on one rank alone."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        hot = self.optimizers().param_groups[0]["lr"] > 0.1
        return loss * float("nan") if hot and self.global_rank == 1 else loss


def main(strategy, devices, which, folder):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    on_ranks = {"strategy": strategy, "devices": int(devices)}
    case = Case(module=Dropout, train=lambda: loader(163, shuffle=True), trainer=on_ranks)
    kind = AfterTrial if which == "with" else WithoutTrial
    trace = run(case, kind(min_lr=1e-4, max_lr=1.0, num_steps=14, stop_factor=None))

    seed_everything(5, verbose=False)
    test = LRRangeTest(min_lr=1e-4, max_lr=10.0, num_steps=40, stop_factor=None)
    trainer = quiet_trainer(**on_ranks, max_epochs=1, callbacks=[test])
    trainer.fit(NaNOnRankOne(), loader(160, shuffle=True))
    found = {"trace": trace, "result": test.result.state_dict(), "lr": trainer.optimizers[0].param_groups[0]["lr"]}
    Path(folder, f"{which}-{trainer.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
