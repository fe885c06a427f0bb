"""Pack the chat records of a file with the tokenizer of a Hugging Face directory."""

import hashlib
import json
from pathlib import Path
from typing import Any

from trainer.dataset.files import printable
from trainer.dataset.vocabulary import digest
from trainer.packing.manifest import SourceFile, Subject, TokenizerRecord
from trainer.packing.options import PackOptions
from trainer.packing.pack import DEFAULT, Work, pack
from trainer.packing.records import Lines
from trainer.packing.sequences import RecordOptions, SequenceMaker
from trainer.packing.tokenizer import Tokenizer


def pack_file(
    source: Path, tokenizer_dir: Path, output: Path, options: PackOptions, work: Work = DEFAULT
) -> dict[str, Any]:
    """Pack a file of JSON lines, and return the manifest.

    Raises BadTokenizer, BadTemplate, and as trainer.packing.pack.pack.
    """
    lines = Lines(source)
    tokenizer = Tokenizer.load(tokenizer_dir)
    maker = SequenceMaker(tokenizer, _record_options(options))
    subject = Subject([_source(source)], _record_of(tokenizer_dir, tokenizer, options), options)
    return pack(lines, maker, subject, output, work, lines.share_read)


def _record_options(options: PackOptions) -> RecordOptions:
    return RecordOptions(
        options.format, options.mask, options.chat_template, options.messages_field, options.tools_field,
        options.max_doc_tokens,
    )  # fmt: skip


def _source(path: Path) -> SourceFile:
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
        return SourceFile(path=printable(path), bytes=file.tell(), sha256=checksum)


def _record_of(directory: Path, tokenizer: Tokenizer, options: PackOptions) -> TokenizerRecord:
    # This loads the tokenizer, before processes that share its memory are forked.
    vocabulary = tokenizer.vocabulary
    template = options.chat_template or json.dumps(tokenizer.templates, sort_keys=True)
    return TokenizerRecord(
        tokenizer=printable(directory),
        tokenizer_sha256=digest(vocabulary),
        vocab_size=len(vocabulary),
        chat_template_sha256=hashlib.sha256(template.encode()).hexdigest(),
        pad_id=tokenizer.pad_id,
    )
