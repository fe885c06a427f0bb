"""Authentication and authorization: API keys and roles."""
