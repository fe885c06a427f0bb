"""A server with NVIDIA DGX Cloud Lepton's API that really runs jobs here. server.py is the entry point."""
