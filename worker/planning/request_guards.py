"""Checks that apply to every request. Each rejection has a pointer to its place and a reason."""

import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from trainer.checkpoint_safety.allowed import RUNS_CODE
from trainer.config.bridge_schema import secret_keys
from trainer.config.secret_patterns import holds_secret, is_secret_label, is_secret_value, redacted
from trainer.config.training_config import walk
from worker.errors import FieldError, InvalidSpec
from worker.field_errors import MAX_ERRORS, pointer

NAMES_CODE = RUNS_CODE | {"_target_"}
MAX_INTEGER = 2**63 - 1
# Allowed, because it may name only known recipes: see trainer.config.effective.target_recipe.
RECIPE = "recipe._target_"


def reject_unsafe_texts(request: BaseModel) -> None:
    """Raise InvalidSpec if a string or key has a secret, an interpolation or a control character."""
    found: dict[str, FieldError] = {}
    for where, text in _strings(request.model_dump(mode="python")):
        if where not in found and (fault := _text_fault(where, text)):
            found[where] = fault
    if found:
        raise invalid_spec(list(found.values()))


def _text_fault(where: str, text: str) -> FieldError | None:
    if holds_secret(text):
        return _secret(where)
    if "${" in text:
        return _interpolation(where)
    return _control_character(where) if _has_control_character(text) else None


def _secret(where: str) -> FieldError:
    """Return the error for a secret. It must not repeat the secret, which a key can contain, too."""
    return FieldError(
        pointer=redacted(where),
        code="secret_in_request",
        detail="This holds a secret: a key, token or password. Everyone who sees the job would see it.",
        hint='Let the job name a secret of its cluster: "secrets": {"HF_TOKEN": "NAME"}. Revoke a real one.',
    )


def _interpolation(where: str) -> FieldError:
    detail = "Interpolations (${...}) are not allowed in a request."
    return FieldError(pointer=where, code="interpolation", detail=detail, hint="Write the value itself.")


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
        yield where, _name(where)
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


def reject_secret_labels(labels: Mapping[str, str]) -> None:
    """Raise InvalidSpec for labels whose names say that they are secrets, such as `api_key`."""
    for name, value in labels.items():
        if is_secret_label(name, value):
            raise invalid_spec([_secret(pointer(["labels", name]))])


def reject_items(values: Any, source: str, *, exact: bool = False) -> None:
    """Raise InvalidSpec for items that hold secrets, run code, read the service's data, or are no JSON.

    exact: the error points at the item inside `source`; otherwise, as for an override, at `source`.
    """
    for where, item in walk(values):
        at = source + where if exact else source
        name = _name(where)
        if _is_secret(name, item):
            raise invalid_spec([_secret(at)])
        if not NAMES_CODE.isdisjoint(name.split(".")) and _dotted(where) != RECIPE:
            detail = f"{name!r} would run code of the client's choice and is not allowed in a request."
            hint = "Omit it: models that this service trains need no code of their own."
            raise rejection(at, "runs_code", detail, hint)
        _reject_number(at, name, item)
        # YAML escapes can produce any character.
        for text in (name, item) if isinstance(item, str) else (name,):
            if fault := _text_fault(at, text):
                raise invalid_spec([fault])


def _name(where: str) -> str:
    return where.rpartition("/")[2]


def _is_secret(name: str, value: Any) -> bool:
    return is_secret_value(name, value) or not secret_keys().isdisjoint(name.split("."))


def _reject_number(at: str, name: str, item: Any) -> None:
    if isinstance(item, float) and not math.isfinite(item):
        raise rejection(at, "not_finite", f"{name!r} is {item}, and has to be a finite number.")
    if isinstance(item, int) and abs(item) > MAX_INTEGER:
        raise rejection(at, "out_of_range", f"{name!r} is a number of more than 64 bits.")
