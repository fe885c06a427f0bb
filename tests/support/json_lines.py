"""Read the service's log: every line is a JSON object."""

import json
from typing import Any

Line = dict[str, Any]


def lines(text: str, **wanted: Any) -> list[Line]:
    """Return the lines with these values. Fails if a line is not an object or has a raw control character."""
    assert text.replace("\n", "").isprintable()
    found = [json.loads(line) for line in text.split("\n") if line]
    assert all(isinstance(line, dict) for line in found)
    return [line for line in found if wanted.items() <= line.items()]
