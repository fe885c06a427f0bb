"""Packed data with the model that they were packed for, and what the preflight finds in them."""

import json
from pathlib import Path
from typing import Any

from trainer.config.training_config import TrainingConfig
from trainer.preflight import Finding
from trainer.preflight.data import check

SHARD = "splits/train/part-00000.parquet"
VOCABULARY = {"a": 0, "b": 1, "c": 99}


def make_model(directory: Path, vocabulary: dict[str, int] | None = None, **config: Any) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"vocab_size": 100, **config}))
    if vocabulary:
        document = {"model": {"vocab": vocabulary}, "added_tokens": []}
        (directory / "tokenizer.json").write_text(json.dumps(document))
    return directory


def findings(data: Path, **changes: Any) -> list[Finding]:
    """Findings about a config with these data."""
    values: dict[str, Any] = {
        "seq_length": 512,
        "hf_model_path": str(data.parent / "model"),
        "dataset": {"nano3_packed_sft_dir": str(data)},
        "train": {"global_batch_size": 8},
    }
    return check(TrainingConfig.model_validate({**values, **changes})).findings


def errors(data: Path, **changes: Any) -> list[Finding]:
    return [finding for finding in findings(data, **changes) if finding.severity == "error"]
