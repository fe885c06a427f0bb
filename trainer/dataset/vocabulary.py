"""Compare tokenizers by their vocabulary, without loading them. No torch, no transformers."""

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainer import path_roots
from trainer.dataset.files import Meter, NotInspected, read_json

HF_CONFIG = "config.json"
# The largest published ones have some 100 kB, and 33 MB with 2.5 million values.
MAX_CONFIG_BYTES, MAX_CONFIG_VALUES = 4 << 20, 200_000
MAX_TOKENIZER_BYTES, MAX_TOKENIZER_VALUES = 48 << 20, 5_000_000
# Layers of a model, as letters or as a list.
MAX_PATTERN = 10_000

# Exceptions that reading a tokenizer or config file of any content may raise.
UNREADABLE = (OSError, NotInspected, ValueError, TypeError, LookupError, AttributeError)


def digest(vocabulary: Mapping[str, int]) -> str:
    """SHA-256 of tokens and ids. Tokenizers with the same id for each token have the same digest."""
    entries = json.dumps(sorted(vocabulary.items(), key=lambda item: item[1]))
    return hashlib.sha256(entries.encode()).hexdigest()


def vocabulary_of(model: Path) -> dict[str, int] | None:
    """Map token to id from a Hugging Face directory's tokenizer.json; None if it has no vocabulary.

    Raises ValueError if the file is too large or is no JSON.
    """
    try:
        tokenizer = read_json(
            model / "tokenizer.json",
            Meter(),
            most_bytes=MAX_TOKENIZER_BYTES,
            most_values=MAX_TOKENIZER_VALUES,
        )
    except OSError:
        return None
    try:
        entries = tokenizer["model"]["vocab"]
        vocabulary = dict(entries) if isinstance(entries, dict) else _numbered(entries)
        vocabulary |= {added["content"]: added["id"] for added in tokenizer.get("added_tokens") or ()}
    except UNREADABLE:
        return None
    return vocabulary if _is_vocabulary(vocabulary) else None


def _numbered(entries: Any) -> dict[str, int]:
    """Convert a Unigram vocabulary: pairs of token and score, in the order of their ids."""
    return {token: number for number, (token, _score) in enumerate(entries)}


def _is_vocabulary(vocabulary: dict[Any, Any]) -> bool:
    return all(isinstance(token, str) and type(number) is int for token, number in vocabulary.items())


def read_config(model: Path) -> dict[str, Any]:
    """Return config.json of a Hugging Face directory. Raises OSError, and ValueError if it cannot be used."""
    config = read_json(model / HF_CONFIG, Meter(), most_bytes=MAX_CONFIG_BYTES, most_values=MAX_CONFIG_VALUES)
    if not isinstance(config, dict):
        raise ValueError("it is no JSON object")
    return config


def vocab_size_of(model: Path) -> int | None:
    """vocab_size from a Hugging Face directory's config.json; None if it is missing or unreadable."""
    try:
        config = read_config(model)
        size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    except UNREADABLE:
        return None
    return size if type(size) is int and 0 < size < 2**31 else None


def tokenizer_digest(model: Path) -> str | None:
    """Digest of a Hugging Face directory's tokenizer; None if it has none. Raises as vocabulary_of."""
    try:
        path_roots.require(model / "tokenizer.json")
        found = (model / "tokenizer.json").stat()
    except (OSError, ValueError):
        return None
    return _digest_of(model, (found.st_mtime_ns, found.st_size, found.st_ino))


@lru_cache(maxsize=32)
def _digest_of(model: Path, _version: tuple[int, int, int]) -> str | None:
    """Cache the digest until the file changes: reading one takes up to a second."""
    vocabulary = vocabulary_of(model)
    return digest(vocabulary) if vocabulary else None
