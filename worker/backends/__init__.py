"""Where runs are executed. base.py is the interface; one module for each kind of cluster."""
