"""What was noted when the data were packed: beside the shards, or above their splits.

metadata.json         trainer.pack's: pack_size, tokenizer, tokenizer_sha256, vocab_size
*_metadata.jsonl      Megatron-Bridge's own packing: a JSON list, each entry with a pack_size
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from trainer.dataset.files import Meter, read_json, shown
from trainer.dataset.layout import ABSENT

OURS = "metadata.json"
BRIDGES = "*_metadata.jsonl"

Text = Annotated[str, Field(max_length=4096), AfterValidator(shown)]


class BadPacking(ValueError):
    """What is noted about the packing cannot be read; says where and why."""


class Packing(BaseModel):
    """How data were packed; None: not noted."""

    model_config = ConfigDict(strict=True)

    tokenizer: Text | None = Field(default=None, description="Directory or id of the tokenizer.")
    tokenizer_sha256: Text | None = Field(default=None, description="Digest of its vocabulary.")
    pack_size: int | None = Field(
        default=None, ge=1, lt=2**31, description="Tokens that a pack has room for."
    )
    vocab_size: int | None = Field(default=None, ge=1, lt=2**31, description="Entries of the vocabulary.")


def read_packing(directories: Iterable[Path], meter: Meter) -> Packing | None:
    """What is noted in the first of these directories that has something. Raises BadPacking."""
    for directory in directories:
        found = _ours(directory / OURS, meter) or _bridges(directory, meter)
        if found is not None:
            return found
    return None


def _ours(path: Path, meter: Meter) -> Packing | None:
    noted = _read(path, meter)
    if noted is None:
        return None
    try:
        return Packing.model_validate(noted)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "all of it"
        raise BadPacking(f"{shown(path)} cannot be used: {where}: {fault['msg']}.") from None


def _bridges(directory: Path, meter: Meter) -> Packing | None:
    """Bridge notes sizes alone; where there are several it is not known which is meant."""
    try:
        paths = sorted(directory.glob(BRIDGES))
    except OSError:
        return None
    sizes = {size for path in paths for size in _sizes(_read(path, meter))}
    return Packing(pack_size=sizes.pop()) if len(sizes) == 1 else None


def _sizes(noted: Any) -> list[int]:
    entries = noted if isinstance(noted, list) else []
    sizes = [entry.get("pack_size") for entry in entries if isinstance(entry, dict)]
    return [size for size in sizes if type(size) is int and 1 <= size < 2**31]


def _read(path: Path, meter: Meter) -> Any:
    """None where there is no such file. Raises BadPacking."""
    try:
        return read_json(path, meter)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in ABSENT:
            return None
        raise BadPacking(f"{shown(path)} cannot be read: {error}.") from error
