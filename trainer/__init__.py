"""The code that runs on the cluster. It imports nothing of this project outside this package."""
