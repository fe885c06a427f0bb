"""Turn records into sequences of tokens with masks."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainer.packing.algorithms import TokenSequence
from trainer.packing.bad_records import BadReason, BadRecord
from trainer.packing.chunks import Chunk, MaskRule, chunks_of
from trainer.packing.formats import Conversation, Format, conversation_of
from trainer.packing.messages import parse_json
from trainer.packing.template_rendering import ChatTemplate
from trainer.packing.tokenizer import Tokenizer

# What special tokens look like: <|im_end|>, <s>, [INST].
SPECIAL = re.compile(r"<[^<>\s]{1,60}>|\[[A-Z_/]{1,60}\]")


@dataclass(frozen=True)
class RecordOptions:
    """How records are read and what of them is trained."""

    format: Format = Format.AUTO
    mask: MaskRule = MaskRule.ASSISTANT
    chat_template: str | None = None
    """Text of a template, instead of the tokenizer's own."""
    messages_field: str = "messages"
    tools_field: str = "tools"
    max_tokens: int | None = None
    """Longest sequence. What follows is cut off."""
    used_in: str | None = None
    """Only records whose field `used_in` has this name: a text, names with commas between them, or a list."""


class SequenceMaker:
    """Tokenizes records of a tokenizer and some options. Counts what is no error but may surprise."""

    def __init__(self, tokenizer: Tokenizer, options: RecordOptions) -> None:
        """Compile the templates. Raises BadTemplate, BadTokenizer."""
        self.tokenizer, self.options = tokenizer, options
        self._templates = {
            has_tools: tokenizer.template(options.chat_template, has_tools=has_tools)
            for has_tools in (False, True)
        }
        self.cut = 0
        """Sequences that were cut to max_tokens."""
        self.special_in_content = 0
        """Records in whose texts special tokens were typed. They are encoded as the special tokens."""

    def __call__(self, data: bytes | dict[str, Any]) -> list[TokenSequence]:
        """Return the sequences of a record; none of a record that `used_in` leaves out. Raises BadRecord."""
        record = self.record(data)
        if self.options.used_in is not None and not _is_used_in(record, self.options.used_in):
            return []
        conversation = self.conversation(record)
        trained = list(self._trained(conversation))
        if not trained:
            raise self._untrained(conversation)
        self.special_in_content += self._has_special(conversation)
        return trained

    def _trained(self, conversation: Conversation) -> Iterator[TokenSequence]:
        """Yield the sequences that have trained tokens.

        The sequences of a conversation have ever longer contexts: the first one without room for an answer
        is the last that is rendered. Else a conversation of 16 MiB would give billions of tokens.
        """
        for chunks in self.chunks(conversation):
            sequence = self._sequence(chunks)
            if any(sequence.mask):
                yield sequence
            elif len(sequence.ids) == self.options.max_tokens:
                return

    @staticmethod
    def record(data: bytes | dict[str, Any]) -> Any:
        """Parse a record, unless it is a row of a table. Raises BadRecord."""
        return parse_json(data, BadReason.NOT_JSON, "The record") if isinstance(data, bytes) else data

    def conversation(self, record: Any) -> Conversation:
        """Convert a parsed record to messages. Raises BadRecord."""
        options = self.options
        return conversation_of(record, options.format, options.messages_field, options.tools_field)

    def chunks(self, conversation: Conversation) -> Iterator[list[Chunk]]:
        """Render a conversation, and yield the chunks of its sequences. Raises BadRecord."""
        return chunks_of(conversation, self._template(conversation), self.options.mask)

    def _template(self, conversation: Conversation) -> ChatTemplate:
        return self._templates[bool(conversation.tools)]

    def _sequence(self, chunks: list[Chunk]) -> TokenSequence:
        ids: list[int] = []
        is_trained: list[int] = []
        longest = self.options.max_tokens
        for chunk in chunks:
            tokens = self.encoded(chunk)
            ids += tokens
            is_trained += [int(chunk.trained)] * len(tokens)
            if longest is not None and len(ids) > longest:
                self.cut += 1
                break
        # The mask of a token says whether the next one is trained.
        return TokenSequence(ids[:longest], [*is_trained[1:longest], 0])

    def encoded(self, chunk: Chunk) -> list[int]:
        """Return the tokens of a chunk. Raises BadRecord."""
        try:
            return self.tokenizer.encode(chunk.text)
        except UnicodeEncodeError:
            raise BadRecord(
                BadReason.LONE_SURROGATE, "A text contains half of a character (a lone surrogate)."
            ) from None

    def _untrained(self, conversation: Conversation) -> BadRecord:
        answers = {i for i, one in enumerate(conversation.messages) if one["role"] == "assistant"}
        if self.options.max_tokens and answers - conversation.untrained:
            return BadRecord(
                BadReason.CUT_BEFORE_ANSWER, f"No answer begins within {self.options.max_tokens} tokens."
            )
        return BadRecord(BadReason.NOTHING_TRAINED, "No answer of the assistant is trained.")

    def _has_special(self, conversation: Conversation) -> bool:
        texts = (message["content"] for message in conversation.messages)
        return any(not self.tokenizer.special_texts.isdisjoint(SPECIAL.findall(text)) for text in texts)


def _is_used_in(record: Any, name: str) -> bool:
    """Filter as NVIDIA's blends do."""
    used_in = record.get("used_in") if isinstance(record, Mapping) else None
    names = used_in.split(",") if isinstance(used_in, str) else used_in
    return isinstance(names, list) and any(isinstance(one, str) and one.strip() == name for one in names)
