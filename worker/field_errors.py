"""Translate pydantic's errors for clients: a pointer, what is wrong, and the nearest name that exists."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel

from trainer.config.training_config import TrainingConfig
from worker.errors import FieldError


def field_errors(
    errors: Iterable[Mapping[str, Any]], model: type[BaseModel] | None, prefix: str = ""
) -> list[FieldError]:
    """Return a FieldError for each of pydantic's error dicts, with pointers below `prefix`."""
    return [_field_error(error, model, prefix) for error in errors]


def _field_error(error: Mapping[str, Any], model: type[BaseModel] | None, prefix: str) -> FieldError:
    location = error["loc"]
    hint = None
    if error["type"] == "extra_forbidden":
        detail = f"There is no field {location[-1]!r} here."
        hint = _hint(str(location[-1]), _names_at(model, location[:-1]), at_top=len(location) == 1)
    elif error["type"] == "missing" and location:
        detail = f"The field {location[-1]!r} is missing."
    else:
        where = ".".join(str(part) for part in location)
        detail = f"{where}: {_sentence(error['msg'])}" if where else _sentence(error["msg"])
    return FieldError(pointer=prefix + pointer(location), code=error["type"], detail=detail, hint=hint)


def _sentence(message: str) -> str:
    """The message of a validator of ours follows pydantic's prefix `Value error, `."""
    text = message.removeprefix("Value error, ")
    return f"{text[:1].upper()}{text[1:]}."


def _hint(name: str, known: list[str], *, at_top: bool) -> str | None:
    parameter = get_close_matches(name, TrainingConfig.model_fields, n=1)
    if at_top and parameter and not get_close_matches(name, known, n=1):
        return (
            f"{parameter[0]!r} is a training parameter: set it in `overrides`, or in `config` as an object."
        )
    return suggestion(name, known)


def pointer(location: Sequence[Any]) -> str:
    """Return the JSON pointer (RFC 6901) of a path's parts."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """Return `Did you mean ...?`, or all names where none is near."""
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1)
    if nearest:
        return f"Did you mean {nearest[0]!r}?"
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
