"""The hash of a plan. It is equal for plans with the same effect, and shows which part has changed."""

import hashlib
import json
from typing import Any

LENGTH = 16


def digest(parts: dict[str, Any]) -> str:
    """Return the hash of a plan's parts, in order: LENGTH hexadecimal digits for each part."""
    return "-".join(_part_hash(part) for part in parts.values())


def _part_hash(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:LENGTH]


def changed(agreed: str, parts: dict[str, Any]) -> list[str]:
    """Return the names of the parts that differ from the agreed hash; all if its format is another."""
    digests = agreed.split("-")
    if len(digests) != len(parts):
        return list(parts)
    return [name for (name, part), old in zip(parts.items(), digests, strict=True) if _part_hash(part) != old]
