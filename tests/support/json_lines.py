"""Reading the service's log: every line is one JSON object."""

import json
from typing import Any

Line = dict[str, Any]


def lines(text: str, **wanted: Any) -> list[Line]:
    """The lines that have these values. Fails where one is not an object, or has a raw control character."""
    assert text.replace("\n", "").isprintable()
    found = [json.loads(line) for line in text.split("\n") if line]
    assert all(isinstance(line, dict) for line in found)
    return [line for line in found if wanted.items() <= line.items()]
