"""The clusters that jobs may run on: profiles, their registry, their secrets."""
