"""Limits: of requests by key and address, of open streams, and of what a project may use at a time."""
