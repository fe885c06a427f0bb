"""From a request to a plan: the config, its checks, and the submission."""
