"""The packed data that a config names."""

from collections.abc import Iterator
from pathlib import Path

from trainer.config import TrainingConfig
from trainer.dataset import MissingPackedData, find_shards
from trainer.failures import FAILURES
from trainer.preflight.finding import Finding, finding

POINTER = "/dataset/nano3_packed_sft_dir"


def check(config: TrainingConfig) -> Iterator[Finding]:
    directory = config.dataset.nano3_packed_sft_dir
    recovery = FAILURES["missing_packed_data"].recovery
    if directory is None:
        hint = f"Set inputs.packed_parquet. {recovery}"
        yield finding("error", "missing_packed_data", POINTER, "No packed data is named.", hint)
        return
    try:
        find_shards(Path(directory))
    except (MissingPackedData, OSError) as error:
        yield finding("error", "missing_packed_data", POINTER, str(error), recovery)
