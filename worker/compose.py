"""The effective training config of a request: preset or inline config, then overrides, then inputs."""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from trainer.config import TrainingConfig, walk
from trainer.presets import Preset
from worker.errors import FieldError, InvalidSpec
from worker.spec import JobSpec, refuse_endless
from worker.validation import field_errors, pointer

# `inputs` are other names for these keys of the config.
INPUTS = {
    "dataset.nano3_packed_sft_dir": "packed_parquet",
    "checkpoint_megatron": "checkpoint_megatron",
}

KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")

# What OmegaConf and its YAML make of nonsense; of endless nesting, too.
UNREADABLE = (
    OmegaConfBaseException, YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
)  # fmt: skip

# Keys that make a library import what they name.
RUNS_CODE = frozenset({"trust_remote_code", "_target_"})


@dataclass(frozen=True)
class Composed:
    """An effective config, and where in the request its values came from."""

    config: TrainingConfig
    origin: Mapping[str, str]
    """Dotted key of the config -> JSON pointer into the request."""
    inline: bool

    def source(self, where: str) -> str:
        """The place in the request that decides about this place (a JSON pointer) of the config."""
        return _source(where, self.origin, inline=self.inline)


def compose(spec: JobSpec, preset: Preset | None) -> Composed:
    """Preset or inline config, then overrides, then inputs. Raises InvalidSpec."""
    if isinstance(spec.config, dict):
        _refuse_items(spec.config, "/config", exact=True)
    origin: dict[str, str] = {}
    merged = OmegaConf.create(preset.config if preset else spec.config)
    for where, key, value in _overrides(spec):
        # Before OmegaConf has it: an interpolation would be resolved, whatever it was disguised as.
        _refuse_items({key: value}, where)
        _set(merged, where, key, value)
        origin[key] = where
    values = OmegaConf.to_container(merged)
    _apply_inputs(values, spec, origin)
    try:
        return Composed(TrainingConfig.model_validate(values), origin, inline=preset is None)
    except ValidationError as error:
        faults = field_errors(error.errors(), TrainingConfig)
        raise invalid([_at_source(fault, origin, inline=preset is None) for fault in faults]) from error


def _overrides(spec: JobSpec) -> Iterator[tuple[str, str, Any]]:
    """Each override as (pointer into the request, dotted key, value)."""
    if isinstance(spec.overrides, dict):
        for key, value in spec.overrides.items():
            where = pointer(["overrides", key])
            _refuse_key(where, key, key)
            yield where, key, value
        return
    for index, text in enumerate(spec.overrides):
        where = pointer(["overrides", index])
        key, equals, _ = text.partition("=")
        _refuse_key(where, key if equals else "", text)
        yield where, key, _parsed(where, key, text)


def _refuse_key(where: str, key: str, text: str) -> None:
    if not KEY.fullmatch(key):
        hint = "An override looks like train.global_batch_size=8."
        raise fault(where, "not_an_override", f"{text[:100]!r} does not name a key of the config.", hint)


def _parsed(where: str, key: str, text: str) -> Any:
    """The value of a dotlist entry, as OmegaConf reads it and with nothing resolved."""
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False)
        for part in key.split("."):
            value = value[part]  # type: ignore[index, call-overload]
        refuse_endless(value)
    except UNREADABLE as error:
        detail = f"The value of {text[:100]!r} cannot be read: {str(error)[:500]}"
        raise fault(where, "not_an_override", detail) from error
    return value


def _set(config: Any, where: str, key: str, value: Any) -> None:
    try:
        OmegaConf.update(config, key, value, merge=True)
    except UNREADABLE as error:
        detail = f"{key[:100]!r} cannot be set: {str(error)[:500]}"
        raise fault(where, "not_an_override", detail) from error


def _apply_inputs(values: Any, spec: JobSpec, origin: dict[str, str]) -> None:
    """What `inputs` and an override both say must be the same."""
    for key, name in INPUTS.items():
        path = getattr(spec.inputs, name)
        if path is None:
            continue
        where = pointer(["inputs", name])
        *parents, last = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            continue  # the config is refused for it
        if section.get(last, path) != path and key in origin:
            raise fault(where, "contradiction", f"inputs.{name} and {key} mean the same and differ.")
        section[last] = path
        origin[key] = where


def _at_source(fault: FieldError, origin: Mapping[str, str], *, inline: bool) -> FieldError:
    return fault.model_copy(update={"pointer": _source(fault.pointer, origin, inline=inline)})


def _source(where: str, origin: Mapping[str, str], *, inline: bool) -> str:
    dotted = where.strip("/").replace("/", ".")
    for key, source in origin.items():
        if dotted == key or dotted.startswith(f"{key}.") or key.startswith(f"{dotted}."):
            return source
    if inline:
        return f"/config{where}"
    return pointer(["inputs", INPUTS[dotted]]) if dotted in INPUTS else "/config"


def _refuse_items(values: Any, source: str, *, exact: bool = False) -> None:
    """A request sets values that JSON has; it names no code to run and reads nothing of the service.

    exact: the fault points at the item inside `source`; else, as for an override, at `source`.
    """
    for where, item in walk(values):
        at = source + where if exact else source
        name = where.rpartition("/")[2]
        if not RUNS_CODE.isdisjoint(name.split(".")):
            detail = f"{name!r} would run code of the client's choice, and is not for requests."
            raise fault(at, "runs_code", detail)
        if isinstance(item, float) and not math.isfinite(item):
            raise fault(at, "not_finite", f"{name!r} is {item}, and has to be a finite number.")
        texts = (name, item) if isinstance(item, str) else (name,)
        if any("${" in text for text in texts):
            raise fault(at, "interpolation", "Interpolations (${...}) are not allowed in a request.")
        if any(_has_control_character(text) for text in texts):
            raise invalid([_control_character(at)])  # YAML escapes make them of harmless text


# -- what is refused before anything is worked out -------------------------------------------------


def refuse_control_characters(spec: JobSpec) -> None:
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


def refuse_unsupported(spec: JobSpec) -> None:
    """What is part of the contract and cannot be done yet is refused, not ignored."""
    if spec.args:
        raise fault("/args", "unknown_argument", f"{spec.args[0]!r} maps to nothing: use overrides.")
    if spec.secrets:
        raise fault("/secrets", "unknown_secret", "This cluster has no secrets.")


def fault(where: str, code: str, detail: str, hint: str | None = None) -> InvalidSpec:
    return invalid([FieldError(pointer=where, code=code, detail=detail, hint=hint)])


def invalid(faults: list[FieldError]) -> InvalidSpec:
    return InvalidSpec(faults[0].detail, hint=faults[0].hint, errors=faults)
