"""Read docker-compose.yml like a container engine, as far as the tests need it."""

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
    """Return the file with resolved anchors and unresolved variables."""
    return yaml.safe_load(COMPOSE_FILE.read_text())


def load(values: Mapping[str, str]) -> Yaml:
    """Return the file with its variables. Raises KeyError for a required variable that is not set."""
    document = _interpolated(raw(), values)
    for service in document["services"].values():
        # A name without a value is taken from the environment, if it is set there.
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
    """Return every ${...} of a document."""
    return [match for match in VARIABLE.finditer(yaml.safe_dump(node, width=10_000)) if match[2]]


def assignments(path: Path, *, commented: bool = False) -> dict[str, str]:
    """Return the NAME=value lines of an env file; with `commented` also those that are commented out."""
    mark = "#?" if commented else ""
    return dict(re.findall(rf"^{mark}([A-Z_]+)=(.*)$", path.read_text(), re.MULTILINE))
