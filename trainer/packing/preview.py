"""Show what of some records is trained, before anything is packed."""

import re
from collections.abc import Iterable, Iterator

from pydantic import BaseModel, Field
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from trainer.packing.bad_records import BadReason, BadRecord
from trainer.packing.chunks import Chunk
from trainer.packing.sequences import SequenceMaker
from trainer.packing.sources import SourceItem, UnreadableRecord

TRAINED, CONTEXT = "bold green", "dim"
# A terminal would obey them.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class PreviewedSpan(BaseModel):
    """A part of a sequence: what the template renders for a message."""

    role: str
    text: str
    trained: bool
    tokens: int = Field(description="Number of tokens.")
    cut: bool = Field(default=False, description="Whether it begins beyond the pack, and is cut off.")


class PreviewedRecord(BaseModel):
    """The sequences of a record, or why it cannot be packed."""

    format: str | None = Field(default=None, description="Format that was recognized.")
    sequences: list[list[PreviewedSpan]] = []
    reason: BadReason | None = None
    message: str | None = Field(default=None, description="Why it cannot be packed.")


def preview(items: Iterable[SourceItem], maker: SequenceMaker) -> Iterator[PreviewedRecord]:
    """Return for each record what would be trained. Bad records are described, not raised.

    Records that `used_in` leaves out have no sequences.
    """
    for item in items:
        try:
            yield _previewed(item, maker)
        except BadRecord as error:
            yield PreviewedRecord(reason=error.reason, message=str(error))


def _previewed(item: SourceItem, maker: SequenceMaker) -> PreviewedRecord:
    if isinstance(item, UnreadableRecord):
        raise item.error
    if not maker(item.data):  # raises what packing would raise
        return PreviewedRecord()
    conversation = maker.conversation(maker.record(item.data))
    sequences = [_spans(chunks, maker) for chunks in maker.chunks(conversation)]
    return PreviewedRecord(format=conversation.format, sequences=sequences)


def _spans(chunks: list[Chunk], maker: SequenceMaker) -> list[PreviewedSpan]:
    spans: list[PreviewedSpan] = []
    begin = 0
    for chunk in chunks:
        tokens = len(maker.encoded(chunk))
        is_cut = maker.options.max_tokens is not None and begin >= maker.options.max_tokens
        trained = chunk.trained and not is_cut
        spans.append(
            PreviewedSpan(role=chunk.role, text=chunk.text, trained=trained, tokens=tokens, cut=is_cut)
        )
        begin += tokens
    return spans


def show(records: Iterable[PreviewedRecord], console: Console) -> None:
    """Print records with trained text in color, and as [[trained]] where there is no color."""
    for number, record in enumerate(records, start=1):
        if record.reason:
            console.print(
                Panel(Text(f"{record.reason}: {record.message}"), title=f"record {number}, left out")
            )
        for place, spans in enumerate(record.sequences, start=1):
            title = f"record {number}, sequence {place} of {len(record.sequences)} ({record.format})"
            trained = sum(span.tokens for span in spans if span.trained)
            tokens = sum(span.tokens for span in spans)
            subtitle = f"{trained} of {tokens} tokens trained"
            console.print(Panel(_text(spans, console), title=title, subtitle=subtitle, title_align="left"))


def _text(spans: Iterable[PreviewedSpan], console: Console) -> Text:
    text = Text()
    for span in spans:
        if span.cut:
            return text.append("\n(the rest is beyond the pack)", style="red")
        shown = CONTROL.sub("\N{REPLACEMENT CHARACTER}", span.text)
        marked = f"[[{shown}]]" if span.trained and not console.color_system else shown
        text.append(marked, style=TRAINED if span.trained else CONTEXT)
    return text
