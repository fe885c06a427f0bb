"""Read the packing metadata, which lies beside the shards or above their splits.

metadata.json         trainer.pack's: the fields of Packing, and others (trainer/packing/manifest.py)
*_metadata.jsonl      Megatron-Bridge's own packing: a JSON list, each entry with a pack_size
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from trainer.dataset.files import Meter, read_json
from trainer.dataset.layout import ABSENT
from trainer.path_roots import OutsideRoots
from trainer.quoting import printable

OURS = "metadata.json"
BRIDGES = "*_metadata.jsonl"

Text = Annotated[str, Field(max_length=4096), AfterValidator(printable)]


class BadPacking(ValueError):
    """The packing metadata cannot be read. The message names the file and the reason."""


class Packing(BaseModel):
    """How data were packed; None for values that were not recorded."""

    model_config = ConfigDict(strict=True)

    tokenizer: Text | None = Field(default=None, description="Directory or id of the tokenizer.")
    tokenizer_sha256: Text | None = Field(default=None, description="Digest of its vocabulary.")
    pack_size: int | None = Field(default=None, ge=1, lt=2**31, description="Capacity of a pack in tokens.")
    vocab_size: int | None = Field(default=None, ge=1, lt=2**31, description="Entries of the vocabulary.")
    chat_template_sha256: Text | None = Field(default=None, description="Digest of its chat templates.")
    mask: Text | None = Field(
        default=None, description="Which tokens are trained: `assistant` or another rule."
    )


def read_packing(directories: Iterable[Path], meter: Meter) -> Packing | None:
    """Read the metadata from the first of these directories that has any. Raises BadPacking, OutsideRoots."""
    for directory in directories:
        found = _read_ours(directory / OURS, meter) or _read_bridges(directory, meter)
        if found is not None:
            return found
    return None


def _read_ours(path: Path, meter: Meter) -> Packing | None:
    metadata = _read(path, meter)
    if metadata is None:
        return None
    try:
        return Packing.model_validate(metadata)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the document"
        raise BadPacking(f"{printable(path)} cannot be used: {where}: {fault['msg']}.") from None


def _read_bridges(directory: Path, meter: Meter) -> Packing | None:
    """Read Bridge's metadata, which has pack sizes only. Several sizes are ambiguous: then return None."""
    try:
        paths = sorted(directory.glob(BRIDGES))
    except OSError:
        return None
    sizes = {size for path in paths for size in _sizes(_read(path, meter))}
    return Packing(pack_size=sizes.pop()) if len(sizes) == 1 else None


def _sizes(metadata: Any) -> list[int]:
    entries = metadata if isinstance(metadata, list) else []
    sizes = [entry.get("pack_size") for entry in entries if isinstance(entry, dict)]
    return [size for size in sizes if type(size) is int and 1 <= size < 2**31]


def _read(path: Path, meter: Meter) -> Any:
    """Parse a JSON file; None if it does not exist. Raises BadPacking, OutsideRoots."""
    try:
        return read_json(path, meter)
    except OutsideRoots:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in ABSENT:
            return None
        raise BadPacking(f"{printable(path)} cannot be read: {error}.") from error
