"""Show what somebody else's file or path holds: in messages, which go to terminals and JSON."""

from pathlib import Path

MAX_CHARACTERS = 100


def shown(value: object) -> str:
    """Return the beginning of a value in ASCII, quoted."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # an integer of more digits than Python converts
        return "a value that cannot be shown"
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}..."


def printable(path: Path | str) -> str:
    """Return a path or text with bytes that are not UTF-8 escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode()
