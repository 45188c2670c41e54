"""Super-convergence as Smith and Topin measured it: ResNet-56 on CIFAR-10, 0.1 to 3, 10,000 steps. For a GPU.

Super-Convergence (2018), Table 1 and section 4: 92.4 % with one cycle in 10,000 iterations, 91.2 % with the usual
piecewise constant rate of 0.35 in 80,000; batches of 1,000, weight decay 0.0001, momentum 0.9, images only mirrored,
batch normalization whose averages follow by 0.05 a step (0.001 a step in the long run, where they have time). These
were single runs; the baseline's own logs end at 90.3 %.

    python examples/resnet56.py --cifar DATA                              # 1cycle
    python examples/resnet56.py --cifar DATA --policy piecewise
    python examples/resnet56.py --steps 2 --batch_size 16 --device cpu    # on noise, to see that it runs
"""

import argparse

import torch
from images import Classifier, cifar10, synthetic, train
from pytorch_lightning import seed_everything
from torch import nn

from lightning_clr import Cyclic, LRBounds, Schedule


class Block(nn.Module):
    """Two convolutions beside a shortcut. Where it halves the sides, zeros double the channels."""

    def __init__(self, channels, halve, norm_momentum):
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 2 if halve else 1, 1), nn.BatchNorm2d(channels, momentum=norm_momentum),
            nn.ReLU(), nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels, momentum=norm_momentum),
        )  # fmt: skip
        self.shortcut = nn.AvgPool2d(3, 2, 1) if halve else nn.Identity()
        self.halve = halve

    def forward(self, images):
        features = torch.relu(self.residual(images) + self.shortcut(images))
        return torch.cat([features, torch.zeros_like(features)], 1) if self.halve else features


def residual_network(channels=3, blocks=9, stages=3, norm_momentum=0.05):
    """Smith's ResNet: 9 blocks a stage are ResNet-56, 3 are ResNet-20."""
    layers = [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=norm_momentum), nn.ReLU()]
    width = 16
    for stage in range(stages):
        if stage:
            layers.append(Block(width, True, norm_momentum))
            width *= 2
        layers += [Block(width, False, norm_momentum) for _ in range(blocks - bool(stage))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Piecewise(Schedule):
    """``max_lr``, a tenth of it after 5/8 of training, a hundredth after 7/8."""

    def lr(self, step, total_steps, bounds):
        """The usual schedule of residual networks."""
        return bounds.max_lr / 10 ** ((8 * step >= 5 * total_steps) + (8 * step >= 7 * total_steps))


class Mirrored(Classifier):
    """Half of the images, from left to right."""

    def training_step(self, batch, batch_idx):
        images, classes = batch
        mirror = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        return super().training_step((torch.where(mirror, images.flip(3), images), classes), batch_idx)


# the paper's cycle: up and down in 10,000 steps, no momentum cycle
POLICIES = {
    "1cycle": (Cyclic(cycles=1, cycle_momentum=False), LRBounds(0.1, 3.0), 10_000, 0.05),
    "piecewise": (Piecewise(), LRBounds(0.35, 0.35), 80_000, 0.001),
}


def main(cifar=None, policy="1cycle", steps=None, device="auto", batch_size=1000):
    """Train once, print and return the test accuracy in per cent."""
    seed_everything(0)
    schedule, bounds, usual_steps, norm_momentum = POLICIES[policy]
    steps = steps or usual_steps
    data = synthetic(batch_size) if cifar is None else cifar10(cifar)
    network = residual_network(norm_momentum=norm_momentum)
    module = Mirrored(network, schedule, bounds, lr=bounds.max_lr, weight_decay=1e-4)
    history, _ = train(module, data, steps, batch_size, 20, accelerator=device, enable_progress_bar=True)
    what = "noise in the shape of CIFAR-10, which nothing can learn" if cifar is None else "CIFAR-10"
    print(f"ResNet-56, {policy}, {steps:,} steps on {what}: {history.accuracies[-1]:.1f} %")
    return history.accuracies[-1]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--cifar", metavar="FOLDER", help="where cifar-10-batches-py is; without it, noise")
    parser.add_argument("--policy", choices=POLICIES, default="1cycle")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch_size", type=int, default=1000)
    parser.add_argument("--device", default="auto")
    main(**vars(parser.parse_args()))
