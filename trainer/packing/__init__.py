"""Pack chat records for training. No torch."""
