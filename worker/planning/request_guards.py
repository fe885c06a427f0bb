"""What no request may say, whatever it is about: each refusal points at the place and says why."""

import math
import unicodedata
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from trainer.config.training_config import walk
from worker.errors import FieldError, InvalidSpec

# Keys that make a library import what they name.
RUNS_CODE = frozenset({
    "trust_remote_code", "hf_trust_remote_code", "_target_", "custom_manager_class", "feature_dirs",
    "allow_custom_feature_dirs",
})  # fmt: skip
LARGEST = 2**63 - 1
# It names one of a known few: see trainer.config.effective.target_recipe.
RECIPE = "recipe._target_"


def refuse_control_characters(spec: BaseModel) -> None:
    """No string of a request may hold NUL, newlines or other control characters, keys included."""
    places = (
        where for where, text in _strings(spec.model_dump(mode="python")) if _has_control_character(text)
    )
    faults = [_control_character(where) for where in dict.fromkeys(places)]
    if faults:
        raise invalid(faults)


def _control_character(where: str) -> FieldError:
    return FieldError(
        pointer=where,
        code="control_character",
        detail="Control characters (such as NUL or a newline) are not allowed in any string.",
        hint="Remove them; a path or name that seems to need them is wrong.",
    )


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """All strings of a JSON value, keys included, with their pointers."""
    for where, item in walk(value):
        yield where, where.rpartition("/")[2]
        if isinstance(item, str):
            yield where, item


def _has_control_character(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in text)


def fault(where: str, code: str, detail: str, hint: str | None = None) -> InvalidSpec:
    return invalid([FieldError(pointer=where, code=code, detail=detail, hint=hint)])


def invalid(faults: list[FieldError]) -> InvalidSpec:
    return InvalidSpec(faults[0].detail, hint=faults[0].hint, errors=faults)


def _dotted(where: str) -> str:
    return where.strip("/").replace("/", ".")


def refuse_items(values: Any, source: str, *, exact: bool = False) -> None:
    """A request sets values that JSON has; it names no code to run and reads nothing of the service.

    exact: the fault points at the item inside `source`; else, as for an override, at `source`.
    """
    for where, item in walk(values):
        at = source + where if exact else source
        name = where.rpartition("/")[2]
        if not RUNS_CODE.isdisjoint(name.split(".")) and _dotted(where) != RECIPE:
            detail = f"{name!r} would run code of the client's choice, and is not for requests."
            raise fault(at, "runs_code", detail)
        if isinstance(item, float) and not math.isfinite(item):
            raise fault(at, "not_finite", f"{name!r} is {item}, and has to be a finite number.")
        if isinstance(item, int) and abs(item) > LARGEST:
            raise fault(at, "out_of_range", f"{name!r} is a number of more than 64 bits.")
        texts = (name, item) if isinstance(item, str) else (name,)
        if any("${" in text for text in texts):
            raise fault(at, "interpolation", "Interpolations (${...}) are not allowed in a request.")
        if any(_has_control_character(text) for text in texts):
            raise invalid([_control_character(at)])  # YAML escapes make them of harmless text
