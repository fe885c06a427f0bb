"""Pack or preview the chat records of sources with the tokenizer of a Hugging Face directory."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.dataset.chat_templates import DEFAULT, templates_digest
from trainer.dataset.files import Meter, MeteredFile
from trainer.dataset.vocabulary import digest
from trainer.packing.manifest import PackingInput, SourceRecord, TokenizerRecord
from trainer.packing.options import PackOptions
from trainer.packing.pipeline import DEFAULT_EXECUTION, Execution, pack, require_absent
from trainer.packing.preview import PreviewedRecord, preview
from trainer.packing.sequences import SequenceMaker
from trainer.packing.sources import Source, find, records
from trainer.packing.sources.hub import pinned
from trainer.packing.sources.source import as_bad_source
from trainer.packing.tokenizer import Tokenizer
from trainer.quoting import printable

READ_BYTES = 1 << 20


def pack_sources(
    texts: Iterable[str],
    tokenizer_dir: Path,
    output: Path,
    options: PackOptions,
    execution: Execution = DEFAULT_EXECUTION,
) -> dict[str, Any]:
    """Pack what the texts name (see trainer.packing.sources.find), and return the manifest.

    Raises BadSource, BadTokenizer, BadTemplate, and as trainer.packing.pipeline.pack.
    """
    require_absent(output)  # before all sources are read for their digests
    sources = [pinned(source) for source in find(texts)]
    described = [_described(source) for source in sources]
    tokenizer = Tokenizer.load(tokenizer_dir)
    packing_input = PackingInput(described, _record_of(tokenizer_dir, tokenizer, options), options)
    meter, of_records = Meter(), options.of_records()
    SequenceMaker(tokenizer, of_records)  # raises what is wrong with its templates
    items = records(sources, options.seed, meter)
    return pack(
        items, lambda day: SequenceMaker(tokenizer.on(day), of_records), packing_input, output, execution,
        _share_read(described, meter),
    )  # fmt: skip


def preview_sources(
    texts: Iterable[str], tokenizer_dir: Path, options: PackOptions, number: int
) -> Iterator[PreviewedRecord]:
    """Yield what would be trained of the first records. Raises BadSource, BadTokenizer, BadTemplate."""
    sources = find(texts)
    tokenizer = Tokenizer.load(tokenizer_dir).on(options.date or date.today())
    maker = SequenceMaker(tokenizer, options.of_records())
    return preview(islice(records(sources, options.seed), number), maker)


def _described(source: Source) -> SourceRecord:
    """Describe a source, a file with its digest. Raises BadSource."""
    record = SourceRecord(
        path=source.name,
        weight=source.weight,
        subset=source.subset,
        split=source.split,
        revision=source.revision,
    )
    if source.is_hub:
        return record
    checksum = hashlib.sha256()
    with as_bad_source(source.name), MeteredFile(source.path, Meter()) as file:
        while data := file.read(READ_BYTES):
            checksum.update(data)
        return record.model_copy(update={"bytes": file.tell(), "sha256": checksum.hexdigest()})


def _share_read(described: Sequence[SourceRecord], meter: Meter) -> Callable[[], float | None]:
    """Return a function that tells the share of the files that was read; None if one is not a file."""
    sizes = [record.bytes for record in described]
    if None in sizes:
        return lambda: None
    total = max(1, sum(size or 0 for size in sizes))
    return lambda: min(1.0, meter.bytes_read / total)


def _record_of(directory: Path, tokenizer: Tokenizer, options: PackOptions) -> TokenizerRecord:
    # This loads the tokenizer, before processes that share its memory are forked.
    vocabulary = tokenizer.vocabulary
    own = options.chat_template
    templates = tokenizer.templates if own is None else {DEFAULT: own}
    special = json.dumps(tokenizer.special_tokens, sort_keys=True)
    return TokenizerRecord(
        tokenizer=printable(directory),
        tokenizer_sha256=digest(vocabulary),
        vocab_size=len(vocabulary),
        chat_template_sha256=templates_digest(templates),
        pad_id=tokenizer.pad_id,
        backend_sha256=hashlib.sha256(tokenizer.backend.encode()).hexdigest(),
        special_tokens_sha256=hashlib.sha256(special.encode()).hexdigest(),
    )
