"""Packed data as trainer.packing and Megatron-Bridge write them, and invalid data."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PACK_SIZE = 512
ROWS = 8
TYPES = {"input_ids": pa.int32(), "loss_mask": pa.int8(), "seq_start_id": pa.int32()}

Columns = dict[str, list[Any]]


def packs(rows: int = ROWS, tokens: int = PACK_SIZE) -> Columns:
    """Return valid packs of two sequences each; half of the tokens are trained."""
    row = {
        "input_ids": [3 + place % 50 for place in range(tokens)],
        "loss_mask": [place % 2 for place in range(tokens)],
        "seq_start_id": [0, tokens // 2],
    }
    return {name: [list(values) for _ in range(rows)] for name, values in row.items()}


def write_shard(
    path: Path, columns: Mapping[str, Sequence[Any]], types: Mapping[str, Any] = TYPES, **how: Any
) -> Path:
    """Write a shard. how: options of pyarrow.parquet.write_table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(values, pa.list_(types[name])) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, **how)
    return path


def make_dataset(directory: Path, *, rows: int = ROWS, **noted: Any) -> Path:
    """Make splits/train and splits/valid with a shard each, and metadata.json."""
    for split in ("train", "valid"):
        write_shard(directory / "splits" / split / "part-00000.parquet", packs(rows))
    (directory / "metadata.json").write_text(json.dumps({"pack_size": PACK_SIZE, **noted}))
    return directory
