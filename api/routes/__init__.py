"""One module per resource; route functions have two to five lines."""
