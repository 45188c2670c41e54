"""A job of any size, on one device or on several nodes, that goes on where it was when it is started again.

Trains the network of ``digits.py`` between bounds that it finds itself. Checkpoints and logs are in the current folder;
to resume on several nodes, it must be a folder that all of them see.

    python examples/job.py
    sbatch examples/slurm.sh
    NODES=2 NODE_RANK=0 MASTER_ADDR=first.example.org examples/torchrun.sh    # NODE_RANK=1 on the second node
"""

import argparse
from pathlib import Path

from common import DigitsClassifier, batches, digits
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lightning_clr import LRRangeTest


def main(nodes=1, devices=1, max_epochs=8):
    """Train until done, from the newest checkpoint if there is one."""
    seed_everything(0)
    test = LRRangeTest()
    trainer = Trainer(
        num_nodes=nodes,
        devices=devices,
        max_epochs=max_epochs,
        logger=CSVLogger("."),
        callbacks=[test, ModelCheckpoint("checkpoints", save_last=True)],
    )
    checkpoints = [*Path().glob("checkpoints/last*.ckpt"), *Path().glob("hpc_ckpt_*.ckpt")]  # Lightning's, for SLURM
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    trainer.fit(DigitsClassifier(), *batches(digits(), 32, drop_last=False), ckpt_path=newest)
    print(f"rank {trainer.global_rank} after {trainer.current_epoch} epochs: {test.result.summary()}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name, default in {"nodes": 1, "devices": 1, "max_epochs": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
