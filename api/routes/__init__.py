"""One module per resource; a route translates, and calls one function of the engine."""
