"""docker-compose.yml as an engine would understand it, as far as the tests need that."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from worker.settings import PROJECT_ROOT

COMPOSE_FILE = PROJECT_ROOT / "docker-compose.yml"
EXAMPLE = PROJECT_ROOT / ".env.example"
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?:(:[-?])([^}]*))?\})")

type Yaml = Any


def raw() -> Yaml:
    """The file, anchors resolved, variables not."""
    return yaml.safe_load(COMPOSE_FILE.read_text())


def load(values: Mapping[str, str]) -> Yaml:
    """The file with its variables. Raises KeyError for one that has to be set and is not."""
    document = _interpolated(raw(), values)
    for service in document["services"].values():
        # A name without a value is passed on, if there is one.
        given = service.get("environment", {})
        passed = {name: values.get(name) if value is None else value for name, value in given.items()}
        service["environment"] = {name: value for name, value in passed.items() if value is not None}
    return document


def _interpolated(node: Yaml, values: Mapping[str, str]) -> Yaml:
    match node:
        case str():
            return VARIABLE.sub(lambda match: _value(match, values), node)
        case list():
            return [_interpolated(item, values) for item in node]
        case dict():
            return {key: _interpolated(item, values) for key, item in node.items()}
    return node


def _value(match: re.Match[str], values: Mapping[str, str]) -> str:
    escaped, name, operator, argument = match.groups()
    if escaped:
        return "$"
    if found := values.get(name):
        return found
    if operator == ":-":
        return str(argument)
    raise KeyError(f"{name}: {argument}")


def variables(node: Yaml) -> list[re.Match[str]]:
    """Every ${...} of a document."""
    return [match for match in VARIABLE.finditer(yaml.safe_dump(node, width=10_000)) if match[2]]


def assignments(path: Path, *, commented: bool = False) -> dict[str, str]:
    """The NAME=value lines of a file of variables; those that are commented out too, if asked for."""
    mark = "#?" if commented else ""
    return dict(re.findall(rf"^{mark}([A-Z_]+)=(.*)$", path.read_text(), re.MULTILINE))
