"""What submitting to a Slurm and watching its jobs costs: `python -m bench.slurm`."""
