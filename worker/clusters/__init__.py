"""The clusters that jobs may run on: profiles, registry, secrets."""
