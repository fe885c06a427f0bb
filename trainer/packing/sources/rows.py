"""Rows of tables as records."""

from typing import Any


def without_nulls(value: Any) -> Any:
    """Leave out fields that are NULL. In a table each row has the fields of all rows."""
    if isinstance(value, dict):
        return {name: without_nulls(field) for name, field in value.items() if field is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
