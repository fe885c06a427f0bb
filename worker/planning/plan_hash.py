"""The hash of a plan: equal for plans that would do the same; it tells which part has changed."""

import hashlib
import json
from typing import Any

LENGTH = 16


def digest(parts: dict[str, Any]) -> str:
    """Hash of a plan's parts, in their order: a few hexadecimal digits for each."""
    return "-".join(_short(part) for part in parts.values())


def _short(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:LENGTH]


def changed(agreed: str, parts: dict[str, Any]) -> list[str]:
    """Names of the parts that are no longer as agreed; all of them where the hash is of another form."""
    digests = agreed.split("-")
    if len(digests) != len(parts):
        return list(parts)
    return [name for (name, part), was in zip(parts.items(), digests, strict=True) if _short(part) != was]
