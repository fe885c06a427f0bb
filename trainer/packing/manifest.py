"""metadata.json of packed data: how they were made. The same input, options and date give the same bytes.

trainer/dataset/packing_record.py reads pack_size, tokenizer, tokenizer_sha256 and vocab_size.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from trainer.packing.options import PackOptions
from trainer.packing.scratch import write_synced
from trainer.packing.spill import Spill
from trainer.packing.splits import SPLITS
from trainer.sources import code_hash

NAME, VERSION = "metadata.json", 1
# Readers of the manifest limit its size.
MAX_SOURCES = 1000


class SourceRecord(BaseModel):
    """A file that was packed, or a dataset of the Hugging Face hub."""

    model_config = ConfigDict(frozen=True)

    path: str
    weight: float = 1.0
    subset: str | None = None
    split: str | None = None
    revision: str | None = None
    """Commit of a dataset of the hub."""
    bytes: int | None = None
    """Of a file."""
    sha256: str | None = None
    """Of a file."""


class TokenizerRecord(BaseModel):
    """What identifies a tokenizer and its chat template."""

    model_config = ConfigDict(frozen=True)

    tokenizer: str
    """Directory."""
    tokenizer_sha256: str | None
    """trainer.dataset.vocabulary.digest of its vocabulary."""
    vocab_size: int
    chat_template_sha256: str | None
    """trainer.dataset.chat_templates.templates_digest of those that were used."""
    pad_id: int
    backend_sha256: str
    """Of what tokenizer.json holds, as transformers completes it: merges, normalization ..."""
    special_tokens_sha256: str
    """Of what templates may use: bos_token, eos_token ..."""


@dataclass(frozen=True)
class PackingInput:
    """What is packed: sources, tokenizer and options. Equal ones give equal output."""

    sources: Sequence[SourceRecord]
    tokenizer: TokenizerRecord
    options: PackOptions

    def as_dict(self) -> dict[str, Any]:
        return {
            **self.tokenizer.model_dump(mode="json"),
            "sources": [source.model_dump(mode="json") for source in self.sources],
            "options": self.options.model_dump(mode="json"),
            "code_version": code_hash(),
        }


def manifest_of(packing_input: PackingInput, spill: Spill, packs: dict[str, int]) -> dict[str, Any]:
    """Return the manifest of a complete spill, and of the packs in each split."""
    counts, bad = spill.counts, spill.bad
    options, total = packing_input.options, sum(packs.values())
    return {
        "version": VERSION,
        "pack_size": options.pack_size,
        "pad_to_multiple": options.multiple,
        "mask": options.mask,
        **packing_input.as_dict(),
        "sources": [source.model_dump(mode="json") for source in packing_input.sources[:MAX_SOURCES]],
        "sources_left_out": max(0, len(packing_input.sources) - MAX_SOURCES),
        "date": spill.day.isoformat(),
        "records": spill.records,
        "bad_records": bad.counts.total(),
        "bad_records_by_reason": bad.as_dict(),
        **{name: counts[name] for name in COUNTS},
        **{f"{name}_packs": packs.get(name, 0) for name in SPLITS},
        "packs": total,
        "efficiency": round(counts["tokens"] / (total * options.pack_size), 6),
    }


COUNTS = ("sequences", "tokens", "trained_tokens", "padding", "truncated", "filtered", "special_in_content")
"""tokens: without padding; padding: in tokens; truncated: sequences; the last two: records."""


def write(manifest: dict[str, Any], directory: Path) -> None:
    write_synced(directory / NAME, f"{json.dumps(manifest, indent=2)}\n".encode())
