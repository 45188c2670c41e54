#!/usr/bin/env bash
# Submits examples/job.py to two nodes with two GPUs each, from the root of the repository:
#
#   sbatch examples/slurm.sh
#
# Ninety seconds before the time is over SLURM sends SIGUSR1, on which Lightning saves a checkpoint and requeues the job.
# A range test that is under way is finished first: allow for more seconds if yours takes longer.

#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --gpus-per-node=2
#SBATCH --time=01:00:00
#SBATCH --signal=SIGUSR1@90
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
srun python examples/job.py --nodes "$SLURM_NNODES" --devices "$SLURM_NTASKS_PER_NODE"
