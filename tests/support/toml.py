"""Write TOML files for tests: the standard library only reads TOML."""

from typing import Any


def table(name: str, values: dict[str, Any]) -> str:
    """Return a table of a TOML file."""
    lines = (f"{key} = {_toml(value)}" for key, value in values.items())
    return "\n".join([f"[{name}]", *lines, ""])


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else repr(value)
