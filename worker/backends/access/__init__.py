"""Access to a cluster's files and commands, on this machine or over SSH."""
