"""The effective training config of a request: preset or inline config, then overrides, then inputs."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from trainer.config.current_manifest import LENGTH, place, settle_lengths, settle_switches, translated
from trainer.config.presets import Preset
from trainer.config.section_checks import SectionFault
from trainer.config.training_config import TrainingConfig, walk
from worker.errors import FieldError
from worker.field_errors import field_errors, pointer
from worker.planning.arguments import arguments
from worker.planning.bounds import MAX_DEPTH, MAX_KEY, MAX_SET, BoundsExceeded, check_bounds, check_yaml
from worker.planning.request_guards import invalid_spec, reject_items, rejection
from worker.planning.spec import JobSpec
from worker.planning.spellings import Spellings

# `inputs` are aliases of these keys of the config.
INPUTS = {
    "dataset.nano3_packed_sft_dir": "packed_parquet",
    "checkpoint_megatron": "checkpoint_megatron",
}

KEY = re.compile(rf"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+){{0,{MAX_DEPTH}}}")

# What OmegaConf and its YAML parser raise for invalid text, or for text that is nested too deeply.
UNREADABLE = (
    OmegaConfBaseException, YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
)  # fmt: skip


Setting = tuple[str, str, Any]
"""Pointer into the request, dotted key, value."""


@dataclass(frozen=True)
class Composed:
    """An effective config, and the places in the request that its values come from."""

    config: TrainingConfig
    origin: Mapping[str, str]
    """Dotted key of the config -> JSON pointer into the request."""
    inline: bool

    def source(self, where: str) -> str:
        """Return the JSON pointer into the request that sets a place (a JSON pointer) of the config."""
        return _source(where, self.origin, inline=self.inline)


def compose(spec: JobSpec, preset: Preset | None) -> Composed:
    """Merge preset or inline config, then overrides and arguments, then inputs. Raises InvalidSpec.

    No file is read, and the sections of Megatron-Bridge are not checked: see Assessment.faults.
    """
    origin: dict[str, str] = {}
    merged = OmegaConf.create(preset.config if preset else _inline(spec, origin))
    given = _apply_settings(merged, spec)
    values = OmegaConf.to_container(merged)
    _apply_inputs(values, spec, given)
    origin |= given
    _settle(values, origin, inline=preset is None)
    try:
        config = TrainingConfig.model_validate(values)
    except ValidationError as error:
        errors = field_errors(error.errors(), TrainingConfig)
        raise invalid_spec([_at_source(one, origin, inline=preset is None) for one in errors]) from error
    return Composed(config, origin, inline=preset is None)


def _inline(spec: JobSpec, origin: dict[str, str]) -> dict[str, Any]:
    """Return the inline config in this service's keys. origin: gets the places of keys that were replaced."""
    reject_items(spec.config, "/config", exact=True)
    values, found = translated(spec.config if isinstance(spec.config, dict) else {})
    spellings = Spellings()
    for one in found:
        where = pointer(["config", *one.written.split(".")])
        if spellings.add(one, where):
            origin[one.own] = where
            place(values, one.own, one.value)
    if source := settle_lengths(values):
        origin[LENGTH] = origin.get(source) or pointer(["config", *source.split(".")])
    return values


def _apply_settings(merged: Any, spec: JobSpec) -> dict[str, str]:
    """Apply overrides and arguments. Return dotted key -> JSON pointer into the request."""
    origin: dict[str, str] = {}
    spellings = Spellings()
    for where, key, value in _limited(chain(_overrides(spec), _arguments(spec))):
        # Check before OmegaConf merges the value: it would resolve interpolations.
        reject_items({key: value}, where)
        for own, one in spellings.settings(where, key, value):
            _set(merged, where, own, one)
            origin[own] = where
    return origin


def _settle(values: Any, origin: dict[str, str], *, inline: bool) -> None:
    """Remove the last keys of NVIDIA's current manifest. Raises InvalidSpec: see settle_switches."""
    if source := settle_lengths(values):
        origin[LENGTH] = _source(pointer(source.split(".")), origin, inline=inline)
    if faults := list(settle_switches(values)):
        raise invalid_spec([_at_source(error_of_fault(one), origin, inline=inline) for one in faults])


def _limited(settings: Iterable[Setting]) -> Iterator[Setting]:
    """Yield each setting. Raises InvalidSpec as soon as they have more than MAX_SET values together."""
    total = 0
    for where, key, value in settings:
        total += sum(1 for _ in walk({key: value}))
        if total > MAX_SET:
            detail = f"Overrides and arguments set more than {MAX_SET} values."
            raise rejection("/overrides", "too_long", detail, "Send a complete config as an object.")
        yield where, key, value


def _overrides(spec: JobSpec) -> Iterator[Setting]:
    """Yield each override as (pointer into the request, dotted key, value)."""
    if isinstance(spec.overrides, dict):
        for key, value in spec.overrides.items():
            where = pointer(["overrides", key])
            _check_key(where, key)
            yield where, key, value
        return
    for index, text in enumerate(spec.overrides):
        where = pointer(["overrides", index])
        key, equals, _ = text.partition("=")
        _check_key(where, key if equals else "")
        yield where, key, _parsed(where, key, text)


def _arguments(spec: JobSpec) -> Iterator[Setting]:
    """Yield each passthrough argument as an equivalent override."""
    for where, name, text in arguments(spec.args):
        yield where, name, _parsed(where, name, f"{name}={text}")


def is_key(text: str) -> bool:
    """Whether a text is a dotted key, of few sections."""
    return len(text) <= MAX_KEY and KEY.fullmatch(text) is not None


def _check_key(where: str, key: str) -> None:
    """Raise InvalidSpec for an invalid key; without quoting it: a text without `=` may be a secret."""
    if not is_key(key):
        hint = "An override looks like train.global_batch_size=8."
        raise rejection(where, "not_an_override", "This override does not name a key of the config.", hint)


def _parsed(where: str, key: str, text: str) -> Any:
    """Return the value of a dotlist entry as OmegaConf parses it, without resolving interpolations."""
    try:
        check_yaml(text.partition("=")[2])
        value = OmegaConf.to_container(OmegaConf.from_dotlist([text]), resolve=False)
        for part in key.split("."):
            value = value[part]  # type: ignore[index, call-overload]
        check_bounds(value)
    except BoundsExceeded as error:
        raise rejection(where, "not_an_override", f"The value of {key} {error}.") from error
    except UNREADABLE as error:
        # Neither the value nor the parser's message, which quotes it: it may hold a secret.
        detail = f"The value of {key} cannot be read: it is not YAML of plain JSON values."
        raise rejection(where, "not_an_override", detail, "Quote a text with special characters.") from error
    return value


def _set(config: Any, where: str, key: str, value: Any) -> None:
    try:
        OmegaConf.update(config, key, value, merge=True)
    except UNREADABLE as error:
        detail = f"{key[:100]!r} cannot be set to this value here."
        raise rejection(where, "not_an_override", detail) from error


def _apply_inputs(values: Any, spec: JobSpec, origin: dict[str, str]) -> None:
    """Apply `inputs`. Raises InvalidSpec if an override sets the same key to another value."""
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
            continue  # the validation rejects the config
        if section.get(last, path) != path and key in origin:
            detail = f"inputs.{name} and {key} ({origin[key]}) mean the same and differ."
            raise rejection(where, "contradiction", detail, "Set only one of them.")
        section[last] = path
        origin[key] = where


def error_of_fault(fault: SectionFault) -> FieldError:
    return FieldError(pointer=fault.pointer, code=fault.code, detail=fault.detail, hint=fault.hint)


def _at_source(error: FieldError, origin: Mapping[str, str], *, inline: bool) -> FieldError:
    return error.model_copy(update={"pointer": _source(error.pointer, origin, inline=inline)})


def _source(where: str, origin: Mapping[str, str], *, inline: bool) -> str:
    dotted = where.strip("/").replace("/", ".")
    if dotted in origin:
        return origin[dotted]
    for key, source in origin.items():
        if dotted == key or dotted.startswith(f"{key}.") or key.startswith(f"{dotted}."):
            return source
    if inline:
        return f"/config{where}"
    return pointer(["inputs", INPUTS[dotted]]) if dotted in INPUTS else "/config"
