"""Tokenizers of Hugging Face directories, without transformers in this process: it takes 700 MB with torch.

`python -m trainer.packing.tokenizer DIR` loads a tokenizer as AutoTokenizer does, and prints what packing
needs of it as JSON. Processes that tokenize take it from there.
"""

import json
import os
import subprocess
import sys
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from trainer.dataset.chat_templates import DEFAULT
from trainer.packing.template_rendering import ChatTemplate
from trainer.quoting import printable

LOAD_SECONDS = 300
WITH_TOOLS = "tool_use"


class BadTokenizer(ValueError):
    """The tokenizer cannot be used. The message names the directory and the reason."""


class Tokenizer(BaseModel):
    """A tokenizer and its chat templates. Small enough to be given to other processes."""

    model_config = ConfigDict(frozen=True)

    backend: str = Field(repr=False)
    """What tokenizer.json holds, as transformers completes it."""
    templates: dict[str, str]
    """Chat templates by name: `default`, and `tool_use` where conversations with tools have their own."""
    special_tokens: dict[str, Any]
    """What templates may use: bos_token, eos_token ..."""
    pad_id: int
    day: date | None = None
    """What templates take for today; None: today."""

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Load the tokenizer of a Hugging Face directory. Raises BadTokenizer."""
        name = printable(directory)
        if not directory.is_dir():
            raise BadTokenizer(f"{name} is no directory. Name the Hugging Face directory of the model.")
        command = [sys.executable, "-m", __name__, str(directory)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LOAD_SECONDS, env=environment, check=True
            )
        except subprocess.TimeoutExpired:
            raise BadTokenizer(f"{name}: loading the tokenizer took more than {LOAD_SECONDS} s.") from None
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["no output"])[-1]
            raise BadTokenizer(f"{name} has no tokenizer that can be used: {printable(last)[:300]}") from None
        return cls.model_validate_json(done.stdout)

    def on(self, day: date) -> "Tokenizer":
        """Return this tokenizer with templates that take a day for today."""
        return self.model_copy(update={"day": day})

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_str(self.backend)
        backend.no_truncation()
        backend.no_padding()
        return backend

    @property
    def vocabulary(self) -> dict[str, int]:
        """Map each token to its id, as trainer.dataset.vocabulary does."""
        return dict(self._tokenizer.get_vocab(with_added_tokens=True))

    @cached_property
    def special_texts(self) -> frozenset[str]:
        """Tokens that are encoded as one wherever they stand in a text."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return frozenset(token.content for token in added if token.special)

    def encode(self, text: str) -> list[int]:
        """Encode a text without adding special tokens. Raises UnicodeEncodeError for a lone surrogate."""
        text.encode()
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def template(self, text: str | None = None, *, has_tools: bool = False) -> ChatTemplate:
        """Compile a template, by default the tokenizer's own. Raises BadTemplate, BadTokenizer."""
        if text is None and not self.templates:
            raise BadTokenizer("The tokenizer has no chat template. Name one with chat_template.")
        own = self.templates.get(WITH_TOOLS if has_tools else DEFAULT) or self.templates.get(DEFAULT, "")
        return ChatTemplate(own if text is None else text, self.special_tokens, self.day)


def describe(directory: str) -> dict[str, Any]:
    """Load a tokenizer by AutoTokenizer. Raises whatever transformers raises."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)  # a directory, no download  # nosec B615
    if not tokenizer.is_fast:
        raise SystemExit("It is a slow tokenizer (no tokenizer.json). Save it as a fast one.")
    templates = tokenizer.chat_template or {}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return {
        "backend": tokenizer.backend_tokenizer.to_str(),
        "templates": {DEFAULT: templates} if isinstance(templates, str) else templates,
        "special_tokens": {
            name: value
            for name, value in tokenizer.special_tokens_map.items()
            if isinstance(value, str | list)
        },
        "pad_id": pad or 0,
    }


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1])))
