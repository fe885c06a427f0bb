"""Inspect checkpoints that somebody else wrote, without running anything in them. No torch."""
