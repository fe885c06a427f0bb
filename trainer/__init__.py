"""What runs on the cluster. Imports nothing of ours outside this package."""
