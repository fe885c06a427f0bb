"""What the service costs: each module measures one thing and prints a table."""
