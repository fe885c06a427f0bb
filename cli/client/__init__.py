"""HTTP client of the service. It imports nothing of the service's code."""
