"""What moves a job without anybody asking: the tasks run it, and nothing else of worker/ imports it."""
