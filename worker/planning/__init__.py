"""From a request to a plan: config, checks, and exactly what would be submitted."""
