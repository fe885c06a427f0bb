"""Read the events of a run. A run is not trusted: its lines may be broken, huge or forged.

The schema is trainer/events.py. What passes here fits the database, and names no file elsewhere.
"""

import os
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from trainer import bounded_json
from trainer.events import AnyEvent, CheckpointSaved, Ending
from worker.clock import as_utc

# Longer texts are cut; the log has them complete.
MAX_CHARACTERS = 10_000
MAX_NAME_BYTES = 255  # of a file on Linux

_ANY: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="event")])
_ENDING: TypeAdapter[Ending] = TypeAdapter(Annotated[Ending, Field(discriminator="event")])


def read_event(line: bytes) -> AnyEvent:
    """Return the event of a line. Raises ValueError where it is none."""
    event = _ANY.validate_python(_fields(line))
    event.at = as_utc(event.at)
    if isinstance(event, CheckpointSaved):
        for file in event.files:
            _require_plain_path(file.path)
    return event


def read_ending(text: bytes) -> Ending:
    """Return the event of an end marker. Raises ValueError where it is none."""
    event = _ENDING.validate_python(_fields(text))
    event.at = as_utc(event.at)
    return event


def _fields(text: bytes) -> dict[str, Any]:
    """The JSON object of a line, with texts that a database can store."""
    try:
        fields = _storable(bounded_json.parse(text.decode(errors="replace")))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields, dict) or "at" not in fields:
        raise ValueError("is no event: it has no `at`")
    return fields


def _storable(value: Any) -> Any:
    """Postgres cannot store NUL and lone surrogates."""
    match value:
        case str():
            return value[:MAX_CHARACTERS].replace("\0", "\ufffd").encode(errors="replace").decode()
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {key: _storable(item) for key, item in value.items()}
    return value


def _require_plain_path(path: str) -> None:
    """A relative path that leads nowhere else. It becomes a member of archives and a name in URLs."""
    parts = path.split("/")
    if not path.isprintable() or any(part in ("", ".", "..") for part in parts):
        raise ValueError("is not the relative path of a file")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        raise ValueError("has a name that is too long for a file")
