"""How a cluster is reached: its files and commands, on this machine or over SSH."""
