"""Bounds on the values of a request: length, count and nesting, checked before any parser reads them."""

from collections.abc import Iterator
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, StringConstraints
from yaml import AliasEvent, CollectionEndEvent, CollectionStartEvent, parse

MAX_TEXT = 4096
"""Characters of a text: as many as the longest path of Linux has bytes."""
MAX_KEY = 256
"""Characters of a key, dotted or not."""
MAX_ITEMS = 256
"""Overrides, arguments, labels or secrets of a request."""
MAX_YAML = 16_384
"""Characters of a value as YAML: values of an object of overrides become YAML when a job is retried."""
MAX_TOTAL = 65_536
"""Characters of all texts of a value: a hundred times as many as a preset has."""
MAX_VALUES = 8000
"""Values of a JSON value, those inside others included."""
MAX_SET = 1000
"""Values that overrides and arguments set together: each costs a millisecond."""
MAX_DEPTH = 32
"""Deeper than any config, and far below the limits of parsers and serializers."""

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]


class BoundsExceeded(ValueError):
    """A value is beyond a bound; the message says which, and quotes nothing of the value."""


def check_bounds[T](value: T) -> T:
    """Return a JSON value. Raises BoundsExceeded if it is too deep, or has too many values or characters."""
    level: list[Any] = [value]
    count = characters = 0
    for _ in range(MAX_DEPTH + 1):
        count += len(level)
        texts = [one for one in level if isinstance(one, str)]
        characters += sum(map(len, texts))
        if count > MAX_VALUES:
            raise BoundsExceeded(f"has more than {MAX_VALUES} values")
        if characters > MAX_TOTAL:
            raise BoundsExceeded(f"has texts of more than {MAX_TOTAL} characters")
        level = [item for one in level for item in _inside(one)]
        if not level:
            return value
    raise BoundsExceeded(f"is nested deeper than {MAX_DEPTH} levels")


def check_number[T](value: T) -> T:
    """Return a list or object of a request. Raises BoundsExceeded if it has more than MAX_ITEMS items."""
    if isinstance(value, list | dict) and len(value) > MAX_ITEMS:
        raise BoundsExceeded(f"has {len(value)} items; at most {MAX_ITEMS} are allowed")
    return value


# Checked before pydantic reads the value, so that an error points at the field and at no branch of a union.
Bounded = BeforeValidator(check_bounds)
Few = BeforeValidator(check_number)


def _check_text(text: str, limit: int) -> None:
    if len(text) > limit:
        raise BoundsExceeded(f"has a text of {len(text)} characters; at most {limit} are allowed")


def _inside(value: Any) -> Iterator[Any]:
    """The values in a list or an object, whose keys are checked."""
    if isinstance(value, dict):
        for key in value:
            _check_text(str(key), MAX_KEY)
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def check_yaml(text: str) -> str:
    """Return a YAML text. Raises BoundsExceeded if it is too long, too deep or has aliases, or YAMLError.

    Events are parsed with a stack of their own. libyaml's loader recurses in C for each level instead: it
    overflows the stack, which ends the process.
    """
    _check_text(text, MAX_YAML)
    depth = 0
    for event in parse(text, Loader=LOADER):
        if isinstance(event, AliasEvent):  # a few nested ones can expand beyond any memory
            raise BoundsExceeded("has a YAML alias (*NAME); quote a text that begins with *")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise BoundsExceeded(f"is nested deeper than {MAX_DEPTH} levels")
    return text
