"""Measure the cost of submitting to Slurm and polling its jobs: `python -m bench.slurm`."""
