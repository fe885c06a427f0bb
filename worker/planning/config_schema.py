"""The data of a form for a preset: parameters, effective values, and a JSON Schema of its config."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, Field

from trainer.config.bridge_schema import Schema, definitions, precisions
from trainer.config.effective import SECTIONS, Effective
from trainer.config.models import narrowed
from trainer.config.presets import PARAMETERS, Preset, load_preset
from trainer.config.training_config import TrainingConfig
from worker.planning.config import compose
from worker.planning.provenance import Value, values
from worker.planning.spec import JobSpec


class Parameter(BaseModel):
    """A value that users change often."""

    name: str = Field(description="Dotted key, as used in overrides.")
    description: str | None
    value: Any = Field(description="The preset's effective value.")
    choices: list[Any] | None = Field(description="The allowed values, if they can be listed.")


class PresetDetails(Preset):
    """A preset with its parameters and effective values."""

    recipe: str = Field(description="Megatron-Bridge's recipe, or one of this project: gpt, mla or hybrid.")
    parameters: list[Parameter]
    values: dict[str, Value] = Field(description="All values that the preset or its recipe sets.")


@cache
def details(name: str) -> PresetDetails:
    """Return a preset with its parameters and effective values. Raises PresetNotFound."""
    preset = load_preset(name)
    composed = compose(JobSpec(name="form", config=preset.name), preset)
    effective = Effective(composed.config)
    found = values(composed, set())
    schema = config_schema(preset)
    return PresetDetails(
        **preset.model_dump(),
        recipe=effective.recipe.name,
        parameters=[_parameter(name, schema, found, effective) for name in PARAMETERS],
        values=found,
    )


def _parameter(name: str, schema: Schema, found: Mapping[str, Value], effective: Effective) -> Parameter:
    one: Any = schema
    for part in name.split("."):
        one = one["properties"][part]
    key = name.replace("recipe.", "model.", 1)
    value = found[key].value if key in found else effective.get(key) if "." in key else None
    return Parameter(name=name, description=one.get("description"), value=value, choices=_choices(one))


def _choices(schema: Schema) -> list[Any] | None:
    parts = schema.get("anyOf", [schema])
    named = [
        choice for part in parts for choice in part.get("enum", [part["const"]] if "const" in part else [])
    ]
    return [*named, None] if named and {"type": "null"} in parts else named or None


# -- JSON Schema -----------------------------------------------------------------------------------


def config_schema(preset: Preset) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a preset's config, with its effective values as defaults."""
    config = TrainingConfig.model_validate(preset.config)
    effective = Effective(config)
    schema = _inlined(TrainingConfig.model_json_schema())
    for name in SECTIONS:
        schema["properties"][name] = _section(name, schema["properties"][name], effective)
    for name in TrainingConfig.model_fields.keys() - set(SECTIONS) - {"recipe"}:
        schema["properties"][name]["default"] = getattr(config, name)
    for name, narrower in narrowed(config.hf_model_path).items():
        schema["properties"][name] |= narrower
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": f"Training config of {preset.name}",
        "$defs": _needed(schema),
    }


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return pydantic's schema with references to its own models replaced by these models."""
    models = schema.pop("$defs")

    def inlined(one: dict[str, Any]) -> dict[str, Any]:
        return models[one["$ref"].rpartition("/")[2]] if "$ref" in one else one

    for name, one in schema["properties"].items():
        schema["properties"][name] = inlined(one)
        if "anyOf" in one:
            one["anyOf"] = [inlined(part) for part in one["anyOf"]]
    return schema


def _section(name: str, own: dict[str, Any], effective: Effective) -> dict[str, Any]:
    """Return the schema of Bridge's class, with this project's own keys and the effective values."""
    bridge = effective.recipe.schema(name)
    merged = {**bridge["properties"], **own.get("properties", {})}
    properties = {key: _with_default(f"{name}.{key}", one, effective) for key, one in merged.items()}
    section = {**bridge, "properties": properties, "description": own.get("description")}
    return {"anyOf": [section, {"enum": [*precisions(), None]}]} if name == "mixed_precision" else section


def _with_default(key: str, schema: Schema, effective: Effective) -> dict[str, Any]:
    if "readOnly" in schema or key.startswith("dataset.nano3"):
        return dict(schema)
    return {**schema, "default": effective.get(key)}


def _needed(schema: Any) -> dict[str, Schema]:
    """Return the definitions of Bridge's classes that a schema refers to, directly or indirectly."""
    needed: dict[str, Schema] = {}
    pending = [schema]
    while pending:
        for name in _references(pending.pop()):
            if name not in needed:
                needed[name] = definitions().get(name, {})  # pydantic's JsonValue is anything
                pending.append(needed[name])
    return needed


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)
