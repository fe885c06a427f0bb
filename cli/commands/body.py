"""The body of a job request: a file in JSON or YAML, plus options of the command line."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cli.client.errors import Misused

Body = dict[str, Any]

STDIN = "-"
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class JobOptions:
    """The command line's arguments and options for a job."""

    arguments: Sequence[str]
    """A file or `-` (if the first argument is not an override), then overrides: key=value."""
    name: str | None
    config: str | None
    cluster: str | None
    labels: Sequence[str]

    def body(self) -> Body:
        """Return the complete body. Raises Misused for an unreadable file; the service checks the content."""
        given, overrides = self._split()
        body = _load(given, "job") if given else {}
        named = {"name": self.name, "config": self._config(), "cluster": self.cluster}
        body |= {key: value for key, value in named.items() if value is not None}
        if self.labels:
            body["labels"] = _mapping(body.get("labels"), "labels") | pairs(self.labels)
        if overrides:
            body["overrides"] = [*_dotlist(body.get("overrides")), *overrides]
        return body

    def _split(self) -> tuple[str | None, Sequence[str]]:
        given = self.arguments[0] if self.arguments and "=" not in self.arguments[0] else None
        overrides = self.arguments[1:] if given else self.arguments
        for one in overrides:
            _pair(one)
        return given, overrides

    def _config(self) -> str | Body | None:
        """Return the name of a preset, or the content of a config file."""
        if self.config and self.config.endswith(CONFIG_SUFFIXES):
            return _load(self.config, "config")
        return self.config


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Parse ["a=b"] as {"a": "b"}. Raises Misused."""
    return dict(_pair(one) for one in texts)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Misused(f"{text!r} is not of the form key=value.")
    return key, value


def _mapping(value: Any, name: str) -> Body:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Misused(f"The file's {name} are not an object: write them as names and values to add to them.")
    return value


def _dotlist(overrides: Any) -> list[str]:
    """Return a file's overrides as a dotlist. Its values are YAML, and JSON is valid YAML."""
    if isinstance(overrides, list):
        return overrides
    values = _mapping(overrides, "overrides").items()
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values]


def _load(path: str, kind: str) -> Body:
    """Read a JSON or YAML object. Raises Misused."""
    text = _read(path)
    try:
        value = _parse(text)
        json.dumps(value, allow_nan=False)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        hint = "Use finite numbers, quote dates, and do not let an anchor contain itself."
        raise Misused(f"The {kind} in {path} cannot be sent as JSON: {error}", hint) from None
    if not isinstance(value, dict):
        raise Misused(f"The {kind} in {path} is not an object with names and values.")
    return value


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


def _read(path: str) -> str:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise Misused(f"The file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Misused(f"The file {path} is not UTF-8 text.") from None
