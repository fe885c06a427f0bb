"""A whole Slurm on this machine: nodes with make-believe GPUs, accounting, SSH. cluster.py is the way in."""
