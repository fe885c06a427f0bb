"""Checks that apply to every request. Each rejection has a pointer to its place and a reason."""

import math
import unicodedata
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from trainer.config.training_config import walk
from worker.errors import FieldError, InvalidSpec
from worker.field_errors import MAX_ERRORS

# Keys that make a library import the code that they name.
RUNS_CODE = frozenset({
    "trust_remote_code", "hf_trust_remote_code", "_target_", "custom_manager_class", "feature_dirs",
    "allow_custom_feature_dirs",
})  # fmt: skip
LARGEST = 2**63 - 1
# Allowed, because it may name only known recipes: see trainer.config.effective.target_recipe.
RECIPE = "recipe._target_"


def reject_control_characters(spec: BaseModel) -> None:
    """Raise InvalidSpec if a string or key has NUL, newlines or other control characters."""
    places = (
        where for where, text in _strings(spec.model_dump(mode="python")) if _has_control_character(text)
    )
    errors = [_control_character(where) for where in dict.fromkeys(places)]
    if errors:
        raise invalid_spec(errors)


def _control_character(where: str) -> FieldError:
    return FieldError(
        pointer=where,
        code="control_character",
        detail="Control characters (such as NUL or a newline) are not allowed in any string.",
        hint="Remove them. A path or name that seems to need them is wrong.",
    )


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Yield all strings of a JSON value, keys included, with their pointers."""
    for where, item in walk(value):
        yield where, where.rpartition("/")[2]
        if isinstance(item, str):
            yield where, item


def _has_control_character(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def rejection(where: str, code: str, detail: str, hint: str | None = None) -> InvalidSpec:
    """Return the error to raise for one place of a request."""
    return invalid_spec([FieldError(pointer=where, code=code, detail=detail, hint=hint)])


def invalid_spec(errors: list[FieldError]) -> InvalidSpec:
    """Return the error to raise for the first MAX_ERRORS places of a request; the first gives the message."""
    return InvalidSpec(errors[0].detail, hint=errors[0].hint, errors=errors[:MAX_ERRORS])


def _dotted(where: str) -> str:
    return where.strip("/").replace("/", ".")


def reject_items(values: Any, source: str, *, exact: bool = False) -> None:
    """Raise InvalidSpec for items that would run code, read the service's data, or are not valid JSON.

    exact: the error points at the item inside `source`; otherwise, as for an override, at `source`.
    """
    for where, item in walk(values):
        at = source + where if exact else source
        name = where.rpartition("/")[2]
        if not RUNS_CODE.isdisjoint(name.split(".")) and _dotted(where) != RECIPE:
            detail = f"{name!r} would run code of the client's choice and is not allowed in a request."
            raise rejection(at, "runs_code", detail)
        if isinstance(item, float) and not math.isfinite(item):
            raise rejection(at, "not_finite", f"{name!r} is {item}, and has to be a finite number.")
        if isinstance(item, int) and abs(item) > LARGEST:
            raise rejection(at, "out_of_range", f"{name!r} is a number of more than 64 bits.")
        texts = (name, item) if isinstance(item, str) else (name,)
        if any("${" in text for text in texts):
            raise rejection(at, "interpolation", "Interpolations (${...}) are not allowed in a request.")
        if any(_has_control_character(text) for text in texts):
            raise invalid_spec([_control_character(at)])  # YAML escapes can produce them
