"""Read datasets of the Hugging Face hub, streamed: nothing is downloaded before it is read."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.packing.bad_records import RecordPlace
from trainer.packing.sources.rows import without_nulls
from trainer.packing.sources.source import HUB, BadSource, RawRecord, Source, SourceItem, reason_of
from trainer.quoting import printable

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


def require_name(location: str) -> None:
    """Raise BadSource if a location is not hf://owner/name."""
    if not NAME.fullmatch(location.removeprefix(HUB)):
        raise BadSource(f"{printable(location)[:200]} is not {HUB}owner/name.")


def hub_rows(source: Source) -> Iterator[SourceItem]:
    """Yield the rows of a dataset. Raises BadSource."""
    try:
        for number, row in enumerate(_stream(source), start=1):
            yield RawRecord(RecordPlace(source.name, number), without_nulls(row))
    except BadSource:
        raise
    except Exception as error:  # each version of the client raises others
        raise BadSource(
            f"{source.name} cannot be read: {type(error).__name__}: {reason_of(error)}. "
            "It needs network access, and HF_TOKEN where the dataset is private or gated; "
            "or download it, and name its files."
        ) from None


def _stream(source: Source) -> Any:
    name = source.location.removeprefix(HUB)
    # Streaming would import torch to ask for its workers: seconds, and memory, for nothing.
    os.environ.setdefault("USE_TORCH", "0")
    try:
        import datasets
    except ImportError:
        raise BadSource(f"{source.name}: the package datasets is not installed here.") from None
    if Path(name).exists():  # the client would prefer it to the hub
        raise BadSource(f"{source.name}: there is a local path {name}. Start in another directory.")
    return datasets.load_dataset(name, source.subset, split=source.split or "train", streaming=True)
