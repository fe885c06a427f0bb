"""One real fine-tuning job on this machine, from data to checkpoint."""
