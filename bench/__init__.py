"""Benchmarks of the service: each module measures one thing and prints a table."""
