"""The job engine: what a job is, how it changes state, and how it reaches a cluster. Knows no HTTP."""
