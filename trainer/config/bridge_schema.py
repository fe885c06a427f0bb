"""What Megatron-Bridge's recipes are made of and let a config set, as bridge.json says. No torch.

The file is made by `python -m trainer.bridge.describe` from the Bridge that is installed there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("bridge.json")

# Where a key of `recipe.*` that the installed recipe does not take lies in what the recipe returns.
# Not in its checkpoints: the service reads `checkpoint.*` itself.
HOMES = ("model", "train", "validation", "optimizer", "scheduler")

# Fields without a default. Not JSON Schema's `required`: a config changes what a recipe has made already.
NEEDED = "x-needed"

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """One recipe of Bridge, or this project's own for models that have none."""

    name: str
    parameters: tuple[str, ...]
    """What its function takes."""
    sections: Mapping[str, str]
    """Section of ConfigContainer -> its class."""
    absent: tuple[str, ...]
    """Sections that are None unless a config sets something in them."""
    values: Mapping[str, Any]
    """What the recipe sets, by section; all else has its class's default."""

    def schema(self, section: str) -> Schema:
        """JSON Schema of a section; its `$ref`s point into definitions(). Raises KeyError."""
        return definitions()[self.sections[section]]

    def home(self, key: str) -> str | None:
        """Dotted key of ConfigContainer that `recipe.KEY` means; None where there is none."""
        return next((f"{name}.{key}" for name in HOMES if key in self.schema(name)["properties"]), None)

    def value(self, key: str) -> Any:
        """What a dotted key has unless a config sets it; None for what is not known."""
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
    """The class that a field holds, if it holds one of Bridge's."""
    for one in (schema, *schema.get("anyOf", ())):
        if "$ref" in one:
            return definitions()[one["$ref"].rpartition("/")[2]]
    return None


def precisions() -> list[str]:
    """Names of Bridge's recipes of mixed precision."""
    names: list[str] = _data()["mixed_precision"]
    return names


def versions() -> Mapping[str, str]:
    """Packages that were described, with their versions."""
    found: dict[str, str] = _data()["versions"]
    return found


@cache
def recipes() -> Mapping[str, Recipe]:
    return {
        name: Recipe(name, tuple(one["parameters"]), one["sections"], tuple(one["absent"]), one["values"])
        for name, one in _data()["recipes"].items()
    }
