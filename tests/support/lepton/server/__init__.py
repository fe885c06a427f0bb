"""NVIDIA DGX Cloud Lepton's API on this machine: jobs are kept, and really run. server.py is the way in."""
