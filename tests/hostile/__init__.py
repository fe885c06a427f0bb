"""Attacks on a running service, counted: escapes, server errors, and requests over two seconds of CPU."""
