"""One module per resource; bodies of two to five lines."""
