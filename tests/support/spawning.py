"""Run as a script: training in processes that the trainer launches itself. Usage: python spawning.py STRATEGY."""

import json
import sys

import torch

from lightning_clr import LRRangeTest, lr_range_test
from support.data import loader
from support.models import Scheduled
from support.training import quiet_trainer


class Net(Scheduled):
    def __init__(self, lr=0.1, lr_bounds=None):
        super().__init__(lr_bounds=lr_bounds)
        self.save_hyperparameters()


def main(strategy):
    def make_trainer(**kwargs):
        return quiet_trainer(max_epochs=1, strategy=strategy, devices=2, **kwargs)

    test, module = LRRangeTest(num_steps=40, closer_look=False), Net()
    make_trainer(callbacks=[test]).fit(module, loader())

    trainer, untouched = make_trainer(), Net()
    before = untouched.head.weight.clone()
    only = lr_range_test(trainer, untouched, loader(), num_steps=40, closer_look=False)
    unchanged = torch.equal(untouched.head.weight, before)
    trainer.fit(untouched, loader())  # the test was no fit
    told = {"callback": vars(test.result.bounds), "points": len(test.result.lrs), "module": vars(module.lr_bounds)}
    told |= {"hparams": vars(module.hparams.lr_bounds), "lr": module.hparams.lr, "unchanged": unchanged}
    print(json.dumps({**told, "only points": len(only.lrs), "trained": "train_loss" in trainer.callback_metrics}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])
