"""Find the sources that a list of texts names."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.packing.sources.blend import BlendDataset, datasets_of
from trainer.packing.sources.files import files_of
from trainer.packing.sources.hub import require_name
from trainer.packing.sources.source import HUB, BadSource, Source, as_bad_source
from trainer.quoting import printable

MAX_TEXT = 4096
ONLY_SPLIT = "train"
"""Of a file."""


def find(texts: Iterable[str]) -> list[Source]:
    """Return the files and datasets that are named, in order.

    texts: files, directories (with those below), patterns such as DIR/*.jsonl and DIR/**/*.jsonl,
        hf://owner/name, and blends. Paths in a blend are relative to its directory.

    Raises BadSource if one of them cannot be read, or nothing is named.
    """
    found = [source for text in texts for source in _sources(text)]
    if not found:
        raise BadSource("No source has records to read. Name at least one with a weight over 0.")
    return found


def _sources(text: str) -> Iterator[Source]:
    dataset = BlendDataset.model_construct(path=text, weight=1.0, subset=None, split=None)
    blend = _blend(text)
    if blend is None:
        yield from _of(dataset, Path())
        return
    for part in blend:
        inner = str(part.path if _scheme(part.path) else Path(text).parent / part.path)
        if _blend(inner) is not None:
            raise BadSource(f"{printable(text)}: {printable(inner)} is a blend, too. Name its datasets here.")
        if part.weight > 0:
            yield from _of(part, Path(text).parent)


def _blend(text: str) -> list[BlendDataset] | None:
    """Return the datasets of a blend; None for every other source, whether it exists or not."""
    _require_short(text)
    path = Path(text)
    with as_bad_source(printable(text)):
        is_json_file = path.suffix.lower() == ".json" and not _scheme(text) and path.is_file()
        return datasets_of(path) if is_json_file else None


def _of(dataset: BlendDataset, directory: Path) -> Iterator[Source]:
    scheme = _scheme(dataset.path)
    if scheme == HUB:
        require_name(dataset.path)
        yield Source(dataset.path, dataset.weight, dataset.subset, dataset.split)
        return
    _require_local(dataset, scheme)
    for path in files_of(directory / dataset.path):
        yield Source(str(path), dataset.weight)


def _require_local(dataset: BlendDataset, scheme: str) -> None:
    name = printable(dataset.path)
    if scheme:
        raise BadSource(f"{name}: {scheme} is not read. Copy the files to a directory, and name it.")
    if dataset.subset is not None or dataset.split not in (None, ONLY_SPLIT):
        raise BadSource(f"{name}: subset and split are for {HUB} only. Name the files of the split instead.")


def _require_short(text: str) -> None:
    if not text or len(text) > MAX_TEXT:
        raise BadSource(
            f"A source has 1 to {MAX_TEXT} characters; this has {len(text)}. Name a directory or a blend."
        )


def _scheme(text: str) -> str:
    """Return what stands before a URL's path, with ://; empty for a path."""
    before, mark, _after = text.partition("://")
    return before + mark if mark and before.isalnum() else ""
