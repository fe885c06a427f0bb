"""Where runs are executed: the interface that the engine knows, and a folder for each kind of cluster."""
