"""Compare chat templates by their text, without rendering them. No torch, no transformers.

chat_template.jinja                      the template `default`
additional_chat_templates/NAME.jinja     further ones
tokenizer_config.json                    `chat_template`, if there is none of these files: text, or a list of
                                         {"name", "template"} (transformers 5, tokenization_utils_base.py)
"""

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.checkpoint_safety.hugging_face import MAX_TEMPLATE_BYTES
from trainer.dataset.files import Meter, MeteredFile, read_json
from trainer.dataset.vocabulary import UNREADABLE

DEFAULT = "default"
MAX_TEMPLATES = 32


def templates_digest(templates: dict[str, str]) -> str:
    """SHA-256 of templates by name, as sorted JSON."""
    return hashlib.sha256(json.dumps(templates, sort_keys=True).encode()).hexdigest()


def templates_of(model: Path) -> dict[str, str] | None:
    """Return the chat templates of a Hugging Face directory by name; None if none can be read."""
    try:
        found = _files(model) or _configured(model)
    except UNREADABLE:
        return None
    is_text = all(isinstance(part, str) for item in found.items() for part in item)
    return found if found and is_text else None


def _files(model: Path) -> dict[str, str]:
    paths = {DEFAULT: model / "chat_template.jinja"}
    others = sorted(islice((model / "additional_chat_templates").glob("*.jinja"), MAX_TEMPLATES))
    paths |= {path.stem: path for path in others}
    return {name: _read(path) for name, path in paths.items() if path.exists()}


def _read(path: Path) -> str:
    with MeteredFile(path, Meter()) as file:
        text = file.read(MAX_TEMPLATE_BYTES + 1)
    if len(text) > MAX_TEMPLATE_BYTES:
        raise ValueError(f"it is longer than {MAX_TEMPLATE_BYTES} bytes")
    return text.decode()


def _configured(model: Path) -> dict[str, Any]:
    found = read_json(model / "tokenizer_config.json", Meter())["chat_template"]
    return {DEFAULT: found} if isinstance(found, str) else {one["name"]: one["template"] for one in found}
