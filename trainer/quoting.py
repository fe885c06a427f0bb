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
    """Return a path or text in one line, with escapes for what UTF-8 cannot hold or a terminal obeys.

    These are lone surrogates, control characters, and the invisible ones that reorder text.
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(path))
