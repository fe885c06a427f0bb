"""Convert Python annotations to JSON Schema (draft 2020-12). Types without a JSON value convert to None."""

import dataclasses
import enum
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

# Dataclasses that contain code.
OBJECTS = ("ModuleSpec",)

SIMPLE: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
    type(None): {"type": "null"},
    Any: {},
    dict: {"type": "object"},
    list: {"type": "array"},
    tuple: {"type": "array"},
}


def schema_of(annotation: Any, refer: Callable[[type], str]) -> Schema | None:
    """Return the schema of an annotation; None if no JSON value has this type.

    refer: returns the `$ref` of a dataclass, whose fields are described elsewhere.
    """
    if isinstance(annotation, str):  # a name that could not be resolved
        return None
    try:
        if annotation in SIMPLE:
            return dict(SIMPLE[annotation])
    except TypeError:
        return None
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": list(annotation.__members__)}
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return {"$ref": refer(annotation)} if annotation.__name__ not in OBJECTS else None
    return _generic(typing.get_origin(annotation), typing.get_args(annotation), refer)


def _generic(origin: Any, arguments: tuple[Any, ...], refer: Callable[[type], str]) -> Schema | None:
    if origin is typing.Literal:
        return {
            "enum": [argument.name if isinstance(argument, enum.Enum) else argument for argument in arguments]
        }
    if origin is typing.Annotated:
        return schema_of(arguments[0], refer)
    if origin in (typing.Union, types.UnionType):
        return _any_of([schema for one in arguments if (schema := schema_of(one, refer)) is not None])
    if origin in (list, tuple, set):
        return _array(arguments, refer)
    if origin is dict:
        return {"type": "object"}
    return None


def _any_of(schemas: list[Schema]) -> Schema | None:
    """Combine schemas with anyOf. If only null is left, return None: no value can be set then."""
    if not [schema for schema in schemas if schema != {"type": "null"}]:
        return None
    if {} in schemas:
        return {}
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _array(arguments: tuple[Any, ...], refer: Callable[[type], str]) -> Schema | None:
    """Schema of a list, tuple or set. A tuple of several types is an array of any of them."""
    items = [schema_of(one, refer) for one in arguments if one is not Ellipsis]
    if any(item is None for item in items):
        return None
    merged = _any_of([item for item in items if item is not None]) if items else {}
    return {"type": "array", "items": merged}
