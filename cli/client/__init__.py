"""Speaks to a service over HTTP, and knows nothing else of it."""
