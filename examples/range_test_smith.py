"""The LR range test as Smith draws it, and as it is usually drawn today.

Left: validation accuracy against a linearly rising learning rate. ``base_lr`` is where accuracy starts to rise,
``max_lr`` where it slows down, becomes ragged or falls (Smith 2017, section 3.3 and Figure 3). Right: training loss
against an exponentially rising one, which needs no idea of the right decade (after Gugger and fastai), and at the end
of short trainings by 1cycle, which the bounds follow. Both by ``lr_range_test``, after which nothing is trained; the
linear one goes up to ten times the ``max_lr`` that the other has found.

Writes ``range_test_smith.svg``.

    python examples/range_test_smith.py
"""

import torch
from common import DigitsClassifier, batches, digits, panels, quiet_trainer, save
from pytorch_lightning import seed_everything

from lightning_clr import Cyclic, lr_range_test


def sweep(num_steps, **how):
    """A range test of the network of ``digits.py``."""
    seed_everything(0, verbose=False)
    module = DigitsClassifier(Cyclic(cycle_momentum=False))  # momentum is 0.9 throughout
    trainer = quiet_trainer(10 * num_steps)  # the training that would follow, as long as which a test may be
    return lr_range_test(trainer, module, *batches(digits(), 32), num_steps=num_steps, **how)


def main(num_steps=100):
    """Sweep twice, print, draw; returns the linear and the exponential result."""
    torch.set_num_threads(1)
    exponential = sweep(num_steps)
    highest = 10 * exponential.bounds.max_lr
    linear = sweep(
        2 * num_steps, mode="linear", min_lr=highest / 1000, max_lr=highest, monitor="val_acc", monitor_mode="max",
        val_every_n_steps=1,
    )  # fmt: skip
    figure, axes = panels(1, 2, height=5.2)
    for axis, result, title in zip(
        axes, (linear, exponential), ("Smith: accuracy, linear", "loss, exponential"), strict=True
    ):
        result.plot(axis)
        axis.set_title(title)
        axis.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))
        print(f"{result.mode:<12}{result.summary()}")
    save(figure, "range_test_smith")
    return linear, exponential


if __name__ == "__main__":
    main()
