"""Translate pydantic's errors for clients: a pointer, what is wrong, and the nearest name that exists."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, get_args

from pydantic import BaseModel

from trainer.config.secret_patterns import redacted
from trainer.config.training_config import TrainingConfig
from worker.errors import FieldError

MAX_ERRORS = 20
"""Errors that are reported of one request: nobody reads more of them at once."""
MAX_NAME_CHARACTERS = 256
"""Characters of a name that is repeated in an error."""


def field_errors(
    errors: Iterable[Mapping[str, Any]], model: type[BaseModel] | None, prefix: str = ""
) -> list[FieldError]:
    """Return a FieldError for each of pydantic's error dicts, below `prefix`: the first MAX_ERRORS."""
    return [_field_error(error, model, prefix) for error in islice(errors, MAX_ERRORS)]


def _field_error(error: Mapping[str, Any], model: type[BaseModel] | None, prefix: str) -> FieldError:
    location = error["loc"]
    hint = None
    if error["type"] == "extra_forbidden":
        detail = f"There is no field {shortened(str(location[-1]))!r} here."
        hint = _hint(str(location[-1]), _names_at(model, location[:-1]), at_top=len(location) == 1)
    elif error["type"] == "missing" and location:
        detail = f"The field {shortened(str(location[-1]))!r} is missing."
    else:
        where = ".".join(shortened(str(part)) for part in location)
        detail = f"{where}: {_sentence(error['msg'])}" if where else _sentence(error["msg"])
    return FieldError(pointer=prefix + pointer(location), code=error["type"], detail=detail, hint=hint)


def _sentence(message: str) -> str:
    """The message of a validator of ours follows pydantic's prefix `Value error, `."""
    text = message.removeprefix("Value error, ")
    return f"{text[:1].upper()}{text[1:]}."


def _hint(name: str, known: list[str], *, at_top: bool) -> str | None:
    parameter = nearest_name(name, TrainingConfig.model_fields)
    if at_top and parameter and not nearest_name(name, known):
        return f"{parameter!r} is a training parameter: set it in `overrides`, or in `config` as an object."
    return suggestion(name, known)


def pointer(location: Sequence[Any]) -> str:
    """Return the JSON pointer (RFC 6901) of a path's parts; very long keys are shortened."""
    return "".join("/" + shortened(str(part)).replace("~", "~0").replace("/", "~1") for part in location)


def shortened(name: str) -> str:
    """Return a client's name, cut where it is longer than any that is known."""
    # A secret is hidden where the answer is made; its beginning alone would not be recognized there.
    return name if len(name) <= MAX_NAME_CHARACTERS else f"{redacted(name)[:MAX_NAME_CHARACTERS]}..."


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like this one. No long name is compared: that takes a while."""
    return next(iter(get_close_matches(name, known, n=1)), None) if len(name) <= MAX_NAME_CHARACTERS else None


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """Return `Did you mean ...?`, or all names where none is near."""
    names = sorted(known)
    if nearest := nearest_name(name, names):
        return f"Did you mean {nearest!r}?"
    return f"Known names: {', '.join(names)}." if names else None


def _names_at(model: type[BaseModel] | None, location: Sequence[Any]) -> list[str]:
    """Names of the fields of the model that lies at `location` inside `model`."""
    for part in location:
        field = model.model_fields.get(str(part)) if model else None
        model = _model_in(field.annotation) if field else None
    return list(model.model_fields) if model else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
