"""Slurm clusters, by the commands of Slurm itself, on this machine or over SSH. backend.py is the way in."""
