"""The recipes of Megatron-Bridge and the keys that a config can set, read from bridge.json. No torch.

`python -m trainer.bridge.describe` generates the file from the installed Megatron-Bridge.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("bridge.json")

# A key of `recipe.*` that is not a parameter of the recipe is set in one of these sections of the container.
# `checkpoint` is not among them: the service reads `checkpoint.*` itself.
RECIPE_SECTIONS = ("model", "train", "validation", "optimizer", "scheduler")

# Fields without a default. Not JSON Schema's `required`: a config changes a section that a recipe has built.
NEEDED = "x-needed"

# Format of the fields that hold a secret, as OpenAPI has it.
SECRET = "password"  # noqa: S105 - a format of JSON schema  # nosec B105

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe of Bridge, or this project's own recipe for models without one."""

    name: str
    parameters: tuple[str, ...]
    """Parameters of the recipe function."""
    sections: Mapping[str, str]
    """Section of ConfigContainer -> its class."""
    absent: tuple[str, ...]
    """Sections that are None unless a config sets a value in them."""
    values: Mapping[str, Any]
    """Values that the recipe sets, by section. Other fields have the default of their class."""

    def schema(self, section: str) -> Schema:
        """JSON Schema of a section. Its `$ref`s point into definitions(). Raises KeyError."""
        return definitions()[self.sections[section]]

    def container_key(self, key: str) -> str | None:
        """Dotted key of ConfigContainer that `recipe.KEY` sets; None if there is none."""
        return next(
            (f"{name}.{key}" for name in RECIPE_SECTIONS if key in self.schema(name)["properties"]), None
        )

    def value(self, key: str) -> Any:
        """Value of a dotted key unless a config sets it; None if unknown."""
        section, *parts = key.split(".")
        values, schema = self.values.get(section), self.schema(section)
        for part in parts[:-1]:
            values = values.get(part) if isinstance(values, dict) else None
            schema = nested(schema["properties"].get(part, {})) or {"properties": {}}
        if isinstance(values, dict) and parts[-1] in values:
            return values[parts[-1]]
        return schema["properties"].get(parts[-1], {}).get("default")


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(DATA.read_text())
    return data


def definitions() -> Mapping[str, Schema]:
    """Config classes of Bridge by name, as JSON Schema (draft 2020-12)."""
    classes: dict[str, Schema] = _data()["$defs"]
    return classes


def nested(schema: Schema) -> Schema | None:
    """Schema of the Bridge class that a field holds; None if the field holds another type."""
    for one in (schema, *schema.get("anyOf", ())):
        if "$ref" in one:
            return definitions()[one["$ref"].rpartition("/")[2]]
    return None


@cache
def secret_keys() -> frozenset[str]:
    """Names of the fields that hold a secret, in any class of Bridge."""
    fields = (field for one in definitions().values() for field in one.get("properties", {}).items())
    return frozenset(name for name, schema in fields if schema.get("format") == SECRET)


def precisions() -> list[str]:
    """Names of Bridge's mixed-precision recipes."""
    names: list[str] = _data()["mixed_precision"]
    return names


def versions() -> Mapping[str, str]:
    """Versions of the packages that bridge.json describes."""
    found: dict[str, str] = _data()["versions"]
    return found


@cache
def recipes() -> Mapping[str, Recipe]:
    return {
        name: Recipe(name, tuple(one["parameters"]), one["sections"], tuple(one["absent"]), one["values"])
        for name, one in _data()["recipes"].items()
    }
