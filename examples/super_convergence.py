"""1cycle with a large learning rate: the signature of super-convergence, and how much sooner it is done.

One cycle shorter than training, then annihilation far below the initial rate, and momentum the other way, 0.95 to
0.85 to 0.95 (Smith and Topin 2018, section 3; Smith 2018, section 4.1): ``OneCycle(anneal="smith")`` is the policy of
Smith's own training logs. Accuracy rises sharply, falls while the learning rate is large, and rises for a second time.
Trained piecewise, at a constant rate that drops to a tenth after 5/8 and again after 7/8, it just rises.

That picture reproduces here, on 300 digits and a residual network of ten layers, with a cycle from 0.035 to 0.35; only
that the second rise begins before the rate goes down. That training is ten times shorter (ResNet-56 on CIFAR-10: 92.4 %
in 10,000 iterations against 91.2 % in 80,000, see ``resnet56.py``) does not: so small a task is learned by a well
chosen constant rate in as few steps. The table that is printed tells by how much; Smith's own 0.1 to 3 is too large for
it.

Writes ``super_convergence.svg``.

    python examples/super_convergence.py
"""

import statistics

import torch
from common import BLUE, DARK, Classifier, Piecewise, digits, panels, residual_network, save, train
from pytorch_lightning import seed_everything

from lightning_clr import LRBounds, OneCycle

SMITH = OneCycle(anneal="smith", pct_start=0.45, final_div_factor=1000)
POLICIES = {
    "piecewise, 0.1": (Piecewise(), LRBounds(0.1, 0.1)),
    "piecewise, 0.35": (Piecewise(), LRBounds(0.35, 0.35)),
    "1cycle, 0.035 to 0.35": (SMITH, LRBounds(0.035, 0.35)),
    "1cycle, 0.1 to 3": (SMITH, LRBounds(0.1, 3.0)),
}
SHOWN = ("1cycle, 0.035 to 0.35", "piecewise, 0.1")


def run(data, name, steps, seed, validations):
    """Train once."""
    seed_everything(seed, verbose=False)
    schedule, bounds = POLICIES[name]
    network = residual_network(channels=1, blocks=2, stages=2, norm_momentum=0.1)
    module = Classifier(network, schedule, bounds, lr=bounds.max_lr, weight_decay=1e-4)
    return train(module, data, steps, 100, validations)


def picture(runs, steps):
    """Accuracies of both policies, and below the learning rate and momentum of 1cycle."""
    figure, (upper, lower) = panels(2, height=5.6, height_ratios=[1.7, 1], sharex=True)
    for (name, history), color, style in zip(runs.items(), (BLUE, DARK), "-:", strict=True):
        upper.plot(history.steps, history.accuracies, style, color=color, label=name)
        lower.plot(range(len(history.lrs)), history.lrs, style, color=color)
    upper.set(ylabel="test accuracy, %", title=f"the signature of super-convergence, {steps} steps on 300 digits")
    upper.legend(loc="lower right")
    lower.set(ylabel="learning rate", xlabel="optimizer step")
    momentum = lower.twinx()
    momentum.plot(runs[SHOWN[0]].momenta, "--", color=BLUE, linewidth=1)
    momentum.spines["right"].set_visible(True)
    momentum.set(ylabel="momentum (dashed)", ylim=(0.84, 0.96))
    return figure


def main(lengths=(40, 80, 160), shown_steps=160, seeds=3):
    """Draw one run of each policy, then compare lengths; returns the histories that are drawn."""
    torch.set_num_threads(1)
    data = digits(300)  # large learning rates gain most where data are few
    runs = {name: run(data, name, shown_steps, 0, shown_steps // 5) for name in SHOWN}
    save(picture(runs, shown_steps), "super_convergence")

    print("test accuracy, mean of", seeds)
    print("| policy |" + "".join(f" {steps} steps |" for steps in lengths))
    print("|---|" + "---|" * len(lengths))
    for name in POLICIES:
        finals = [
            statistics.mean(run(data, name, steps, seed, 1).accuracies[-1] for seed in range(seeds))
            for steps in lengths
        ]
        print(f"| {name} |" + "".join(f" {final:.1f} % |" for final in finals))
    return runs


if __name__ == "__main__":
    main()
