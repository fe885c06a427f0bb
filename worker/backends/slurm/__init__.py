"""The Slurm backend. It runs Slurm's own commands, here or over SSH. backend.py is the entry point."""
