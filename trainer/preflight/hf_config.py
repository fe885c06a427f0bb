"""Check a model's config.json: where a size is expected, somebody else's file may hold anything."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainer.config.effective import HF_NAMES
from trainer.dataset.layout import ABSENT
from trainer.dataset.vocabulary import HF_CONFIG, MAX_PATTERN, read_config
from trainer.preflight.finding import Finding, finding
from trainer.quoting import printable, shown

POINTER = "/hf_model_path"
TEXTS = ("hybrid_override_pattern",)
SIZES = tuple(name for name in HF_NAMES.values() if name not in TEXTS)
MAX_SIZE_VALUE = 2**31
MAX_REPORTED = 5
LATER = "The trainer reads it before it trains."


def check(model: Path) -> Iterator[Finding]:
    """Return findings about the values of config.json that the checks use."""
    path = printable(model / HF_CONFIG)
    try:
        values = read_config(model)
    except ValueError as error:
        hint = "Download the model again, or name another directory."
        yield finding("error", "bad_checkpoint", POINTER, f"{path} cannot be used: {_short(error)}.", hint)
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}."
        if error.errno is None or error.errno in ABSENT:
            yield finding("error", "bad_checkpoint", POINTER, message, "Name a directory with config.json.")
        else:
            yield finding("unverified", "unseen_model", POINTER, message, LATER)
    else:
        yield from _odd_values(path, values)


def _short(error: Exception) -> str:
    return printable(str(error))[:300].rstrip(".")


def _odd_values(path: str, values: Mapping[str, Any]) -> Iterator[Finding]:
    odd = [*(name for name in SIZES if not _is_size(values.get(name)))]
    odd += [name for name in TEXTS if not _is_pattern(values.get(name))]
    odd += [name for name in ("architectures", "layers_block_type") if not _is_texts(values.get(name))]
    for name in odd[:MAX_REPORTED]:
        message = f"{path}: {name} is {shown(values[name])}, which is no {_expected(name)}."
        yield finding("error", "bad_checkpoint", POINTER, message, "Correct the file, or download it again.")


def _expected(name: str) -> str:
    return "size" if name in SIZES else "text" if name in TEXTS else "list of texts"


def _is_size(value: Any) -> bool:
    """Whether a value is a size, is not known, or is a list of sizes, one for each layer."""
    if isinstance(value, list):
        return all(type(one) is int and 0 <= one < MAX_SIZE_VALUE for one in value)
    return value is None or (type(value) is int and 0 <= value < MAX_SIZE_VALUE)


def _is_pattern(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= MAX_PATTERN)


def _is_texts(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, list) and len(value) <= MAX_PATTERN and all(isinstance(one, str) for one in value)
    )
