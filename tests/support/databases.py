"""Databases of a Postgres server."""

import os
from typing import Any


def new_database(server: Any, template: str = "template1") -> str:
    """Create a database of a Postgres server from a template, and return its name."""
    name = f"test_{os.urandom(6).hex()}"
    server.psql(f"CREATE DATABASE {name} TEMPLATE {template};")
    return postgres_url(server, name)


def postgres_url(server: Any, name: str) -> str:
    return str(server.get_uri(name)).replace("postgresql://", "postgresql+psycopg://")
