"""Read datasets of the Hugging Face hub, streamed: nothing is downloaded before it is read."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.packing.bad_records import RecordPlace
from trainer.packing.sources.rows import without_nulls
from trainer.packing.sources.source import HUB, BadSource, RawRecord, Source, SourceItem, reason_of
from trainer.quoting import printable

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)

HUB_SECONDS = 30


def require_name(location: str) -> None:
    """Raise BadSource if a location is not hf://owner/name."""
    if not NAME.fullmatch(location.removeprefix(HUB)):
        raise BadSource(f"{printable(location)[:200]} is not {HUB}owner/name.")


def pinned(source: Source) -> Source:
    """Return a dataset of the hub with its newest commit, and any other source as it is. Raises BadSource."""
    if not source.is_hub:
        return source
    with _as_bad_source(source):
        return replace(source, revision=_newest_commit(source))


def hub_rows(source: Source) -> Iterator[SourceItem]:
    """Yield the rows of a dataset. Raises BadSource."""
    with _as_bad_source(source):
        for number, row in enumerate(_stream(source), start=1):
            yield RawRecord(RecordPlace(source.name, number), without_nulls(row))


@contextmanager
def _as_bad_source(source: Source) -> Iterator[None]:
    try:
        yield
    except BadSource:
        raise
    except Exception as error:  # each version of the client raises others
        raise BadSource(
            f"{source.name} cannot be read: {type(error).__name__}: {reason_of(error)}. "
            "It needs network access, and HF_TOKEN where the dataset is private or gated; "
            "or download it, and name its files."
        ) from None


def _newest_commit(source: Source) -> str | None:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise BadSource(f"{source.name}: the package huggingface_hub is not installed here.") from None
    sha: str | None = HfApi().dataset_info(source.location.removeprefix(HUB), timeout=HUB_SECONDS).sha
    return sha


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
    return datasets.load_dataset(
        name, source.subset, split=source.split or "train", streaming=True, revision=source.revision
    )
