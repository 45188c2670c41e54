#!/usr/bin/env bash
# Starts this node's share of a job, DEVICES processes; to be run on each of the NODES:
#
#   NODES=2 NODE_RANK=0 DEVICES=4 MASTER_ADDR=first.example.org examples/torchrun.sh
#   NODES=2 NODE_RANK=1 DEVICES=4 MASTER_ADDR=first.example.org examples/torchrun.sh
#
# A script and its arguments may follow, to be run in place of job.py.

set -euo pipefail
: "${NODES:=1}" "${NODE_RANK:=0}" "${DEVICES:=1}" "${MASTER_ADDR:=127.0.0.1}" "${MASTER_PORT:=29500}"
if [ $# -eq 0 ]; then
    set -- "$(dirname "$0")/job.py" --nodes "$NODES" --devices "$DEVICES"
fi
exec torchrun --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$DEVICES" \
    --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" "$@"
