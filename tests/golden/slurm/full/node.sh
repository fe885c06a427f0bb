#!/bin/bash
# One launcher per node; it starts one rank per GPU.
set -u
umask 027
export PYTHONPATH=/lustre/sft/code/0123456789abcdef0123 PYTHONUNBUFFERED=1
export SFT_ROOTS='[]'
set +u
ulimit -l unlimited
exec python -m torch.distributed.run \
    --nnodes 4 --node-rank "$SLURM_NODEID" --nproc-per-node 8 \
    --master-addr "$SLURM_LAUNCH_NODE_IPADDR" --master-port "$MASTER_PORT" \
    -m trainer "$SFT_RUN/config.yaml"
