"""Time limits of Slurm's commands."""

# Slurm's own clients give up after MessageTimeout, 10 s by default, or 9 s without a controller.
QUERY_SECONDS = 20.0
SUBMIT_SECONDS = 70.0
