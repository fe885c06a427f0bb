"""A real fine-tuning job, from data to checkpoint, on this machine."""
