"""Inspect the JSON files of a Hugging Face model: they can name code for transformers to import."""

from collections.abc import Iterator
from typing import Any

from trainer import bounded_json
from trainer.checkpoint_safety.allowed import REMOTE_CLASSES, RUNS_CODE
from trainer.checkpoint_safety.pickles import Hostile, Unreadable
from trainer.quoting import shown

MAX_JSON_BYTES = 16 << 20
"""Without tokenizer.json and the indexes of weights, which name no code."""

# Files in which transformers looks for code of the model.
NAMES_CODE = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "tokenizer_config.json", "video_preprocessor_config.json",
)  # fmt: skip
MAX_TEMPLATE_BYTES = 1 << 20
"""Of a chat template, wherever one is read."""


def scan_json(data: bytes) -> None:
    """Check a config of transformers, of at most MAX_JSON_BYTES. Raises Hostile."""
    try:
        content = bounded_json.parse(data.decode())
    except ValueError as error:
        raise Unreadable(f"is not JSON: {str(error)[:100]}") from error
    for node in _objects(content):
        _check(node)


def _check(node: dict[str, Any]) -> None:
    for name in _texts(node.get("auto_map")):
        if name not in REMOTE_CLASSES:
            raise Hostile(
                f"has the class {shown(name)} in auto_map, which is not in the list of allowed classes"
            )
    if found := [key for key in RUNS_CODE if node.get(key)]:
        raise Hostile(f"sets {found[0]}, which runs code of the model's choice")


def _objects(content: Any) -> Iterator[dict[str, Any]]:
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _texts(value: Any) -> Iterator[object]:
    """Yield all values in an auto_map: a text for each class, or a list of texts and nulls."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif value is not None:
        yield value
