"""The backend for workspaces of NVIDIA DGX Cloud Lepton, over its HTTP API. backend.py is the entry point."""
