"""Write packed data in the layout of data_prep/sft_packing, with Megatron-Bridge 0.6.2's columns:

DIR/splits/train/part-00000.parquet, DIR/splits/valid/part-00000.parquet
DIR/metadata.json      packing metadata: pack_size, tokenizer, tokenizer_sha256, vocab_size, counts

input_ids     list<int32>   tokens of a pack's sequences, concatenated, at most pack_size
loss_mask     list<int8>    1 where the *next* token is an assistant's: Bridge's packed mask is already
                            shifted (megatron/bridge/data/packing/algorithms.py, fill_packing_strategy)
seq_start_id  list<int32>   start of each sequence; the first is 0
"""

import json
from pathlib import Path
from typing import Any

from trainer.dataset.vocabulary import digest, vocabulary_of
from trainer.packing.packs import Fit, Pack

ROWS_PER_SHARD = 10_000


def write_shards(packs: list[Pack], directory: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True)
    for number, begin in enumerate(range(0, len(packs), ROWS_PER_SHARD)):
        rows = packs[begin : begin + ROWS_PER_SHARD]
        columns = {
            "input_ids": pa.array([row.ids for row in rows], pa.list_(pa.int32())),
            "loss_mask": pa.array([row.mask for row in rows], pa.list_(pa.int8())),
            "seq_start_id": pa.array([row.starts for row in rows], pa.list_(pa.int32())),
        }
        pq.write_table(pa.table(columns), directory / f"part-{number:05d}.parquet", row_group_size=500)


def write_metadata(
    directory: Path, tokenizer_dir: Path, tokenizer: Any, fit: Fit, counts: dict[str, int]
) -> None:
    # As the service reads the vocabulary, without transformers; if it cannot, as the tokenizer reports it.
    vocabulary = vocabulary_of(tokenizer_dir) or tokenizer.get_vocab()
    metadata = {
        "pack_size": fit.pack_size,
        "pad_to_multiple": fit.multiple,
        "tokenizer": str(tokenizer_dir),
        "tokenizer_sha256": digest(vocabulary),
        "vocab_size": len(tokenizer),
        **counts,
    }
    (directory / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
