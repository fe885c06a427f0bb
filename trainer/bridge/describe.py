"""Write bridge.json: the keys that the installed Megatron-Bridge lets a config set.

    make schema

`$defs` has a JSON Schema (draft 2020-12) for each config class. `recipes` has, for each recipe, the class of
each section and the values that the recipe sets. The service reads this file instead of importing torch.
Fields that hold functions, dtypes or other objects are `readOnly`; those that hold secrets have the format
`password`, too.
"""

import argparse
import ast
import dataclasses
import enum
import inspect
import itertools
import json
import math
import re
import textwrap
import typing
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from trainer.bridge import compat
from trainer.bridge.annotations import Schema, schema_of
from trainer.config.bridge_schema import DATA, NEEDED, SECRET
from trainer.config.models import MODELS
from trainer.config.secret_patterns import describes_secret, is_secret_name

# Sections of ConfigContainer that no request can set: the process environment, and sections with functions.
LEFT_OUT = ("env_vars", "optimizer_config_override_provider")
UNSETTABLE = "Holds a function, a dtype or another object: it cannot be set from a request."
SECRET_FIELD = {
    "readOnly": True,
    "not": {},
    "format": SECRET,
    "$comment": "Holds a secret: jobs name it in `secrets`.",
}


class Described:
    """Schemas of the requested config classes and of all classes that they refer to."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}

    def refer(self, kind: type) -> str:
        """Return the `$ref` of a dataclass, and describe it if needed."""
        if kind.__name__ not in self.schemas:
            self.schemas[kind.__name__] = {}  # a class may refer to itself
            self.schemas[kind.__name__] = self._describe(kind)
        return f"#/$defs/{kind.__name__}"

    def _describe(self, kind: type) -> Schema:
        hints, texts = _hints(kind), dict(_texts(kind))
        properties = {
            field.name: self._property(field, hints.get(field.name), texts.get(field.name))
            for field in dataclasses.fields(kind)
            if field.init and not field.name.startswith("_")
        }
        needed = [field.name for field in dataclasses.fields(kind) if field.init and _is_needed(field)]
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return schema | ({NEEDED: needed} if needed else {})

    def _property(self, field: "dataclasses.Field[Any]", hint: Any, text: str | None) -> Schema:
        schema = schema_of(hint, self.refer)
        if is_secret_name(field.name) or describes_secret(text or ""):
            schema = dict(SECRET_FIELD)
        elif schema is None:
            schema = {"readOnly": True, "not": {}, "$comment": UNSETTABLE}
        default = _default(field)
        if default is not dataclasses.MISSING:
            schema["default"] = default
        if text:
            schema["description"] = text
        return schema


def describe() -> dict[str, Any]:
    """Return the content of the file. Raises if a recipe cannot be built."""
    compat.install()
    from trainer.bridge import container

    described, recipes = Described(), {}
    names = [name for model in MODELS for name in (model.sft_recipe, model.peft_recipe)]
    for name in (*dict.fromkeys(names), *container.GENERIC):
        made = container.bare(name)
        recipes[name] = {
            "parameters": container.parameters(name),
            "sections": {key: described.refer(kind).rpartition("/")[2] for key, kind in _sections(made)},
            "absent": [_own_name(key) for key, part in vars(made).items() if part is None],
            "values": {
                _own_name(key): values for key, part in vars(made).items() if (values := _changed(part))
            },
        }
    from megatron.bridge.training.mixed_precision import MIXED_PRECISION_RECIPES

    return {
        "mixed_precision": sorted(MIXED_PRECISION_RECIPES),
        "versions": {name: version(name) for name in ("megatron-bridge", "megatron-core")},
        "recipes": recipes,
        "$defs": described.schemas,
    }


def _sections(container: Any) -> Iterator[tuple[str, type]]:
    """Sections of a container with their classes. For a section that is None, the class that it can have."""
    hints = typing.get_type_hints(type(container))
    for field in dataclasses.fields(container):
        if field.name in LEFT_OUT or field.name.startswith("_"):
            continue
        name = _own_name(field.name)
        section = getattr(container, field.name)
        kind = type(section) if dataclasses.is_dataclass(section) else _dataclass_in(name, hints[field.name])
        yield name, kind


def _own_name(section: str) -> str:
    """Our name of a section. Bridge's `peft` is our `lora`; our `peft` only selects adapter tuning."""
    return "lora" if section == "peft" else section


def _dataclass_in(name: str, hint: Any) -> type:
    if name == "lora":
        from megatron.bridge.peft.lora import LoRA

        return typing.cast("type", LoRA)
    kinds = (hint, *typing.get_args(hint))
    return next(kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind))


# -- fields ----------------------------------------------------------------------------------------


def _hints(kind: type) -> dict[str, Any]:
    """Types of the fields. A type that cannot be resolved stays a string."""
    hints: dict[str, Any] = {}
    for parent in reversed(kind.__mro__):
        for name, annotation in inspect.get_annotations(parent).items():
            hints[name] = _resolved(annotation, vars(inspect.getmodule(parent) or object))
    return hints


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    try:
        return typing.get_type_hints(type("_", (), {"__annotations__": {"it": annotation}}), dict(names))[
            "it"
        ]
    except (NameError, TypeError, AttributeError, SyntaxError):
        return annotation


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: "dataclasses.Field[Any]") -> Any:
    """A field's default as JSON, MISSING if it has no JSON value."""
    if field.default_factory is not dataclasses.MISSING:
        return _json(field.default_factory())
    return _json(field.default)


def _changed(section: Any) -> Any:
    """Values of a section that differ from the defaults of its class, as JSON."""
    if not dataclasses.is_dataclass(section):
        return None if _json(section) is dataclasses.MISSING else section
    values = {}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        plain = _changed(value) if dataclasses.is_dataclass(value) else _json(value)
        if field.init and plain is not dataclasses.MISSING and plain != {} and plain != _default(field):
            values[field.name] = plain
    return values


def _json(value: Any) -> Any:
    """A value as JSON, MISSING if it has no JSON value."""
    if isinstance(value, enum.Enum):
        return value.name
    if (
        value is None
        or isinstance(value, bool | int | str)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    if isinstance(value, list | tuple):
        items = [_json(item) for item in value]
        return dataclasses.MISSING if dataclasses.MISSING in items else items
    return dataclasses.MISSING


# -- descriptions of fields in the source ----------------------------------------------------------

ARGUMENT = re.compile(r"^ {4,}(\w+)(?: \([^)]*\))?: (.+)$", re.MULTILINE)


def _texts(kind: type) -> Iterator[tuple[str, str]]:
    """Descriptions of fields, from Args in docstrings and strings below fields; the nearest class last."""
    for parent in reversed(kind.__mro__):
        if dataclasses.is_dataclass(parent):
            yield from ((name, text.strip()) for name, text in ARGUMENT.findall(inspect.getdoc(parent) or ""))
            yield from _under_fields(ast.parse(textwrap.dedent(inspect.getsource(parent))))


def _under_fields(tree: ast.Module) -> Iterator[tuple[str, str]]:
    body = typing.cast("ast.ClassDef", tree.body[0]).body
    for field, below in itertools.pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, " ".join(text.split())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m trainer.bridge.describe", description="Describe Megatron-Bridge."
    )
    parser.add_argument("--output", type=Path, default=DATA, help="the file to write")
    output = parser.parse_args().output
    output.write_text(json.dumps(describe(), indent=1, sort_keys=True) + "\n")
    print(f"wrote {output} ({output.stat().st_size // 1024} KiB)")


if __name__ == "__main__":
    main()
