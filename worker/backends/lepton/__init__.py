"""Workspaces of NVIDIA DGX Cloud Lepton, over its HTTP API. backend.py is the way in."""
