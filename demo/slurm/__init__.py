"""A complete Slurm on this machine: nodes with simulated GPUs, accounting, SSH. Start with cluster.py."""
