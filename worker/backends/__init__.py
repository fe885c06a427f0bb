"""Backends: the interface that the engine uses, and one package for each kind of cluster."""
