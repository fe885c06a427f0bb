"""What a caller can ask of jobs, and the only writer of their rows."""
