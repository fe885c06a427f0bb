"""What the service knows of a run of the trainer, whatever backend executes it."""
