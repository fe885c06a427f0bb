"""Tokenize chat records: JSON lines of {"messages": [{"role": ..., "content": ...}, ...]}."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import track

from trainer.packing.packs import Sequence


class BadRecord(ValueError):
    """A line of the input is not a valid chat record. The message names the line and the reason."""


def load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)  # a directory, no download  # nosec B615


def sequences_of(source: Path, tokenizer: Any) -> Iterator[Sequence]:
    """Tokenize the records of a file, skipping empty lines. Raises BadRecord."""
    lines = source.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(track(lines, description="Tokenizing"), start=1):
        if line.strip():
            try:
                yield tokenize(_messages(line), tokenizer)
            except BadRecord as error:
                raise BadRecord(f"{source}, line {number}: {error}") from error


def _messages(line: str) -> list[dict[str, str]]:
    try:
        messages = json.loads(line)["messages"]
        well_formed = all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages)
    except (ValueError, KeyError, TypeError) as error:
        raise BadRecord('expected {"messages": [{"role": ..., "content": ...}, ...]}') from error
    if not well_formed or not any(m["role"] == "assistant" for m in messages):
        raise BadRecord("a record needs messages with text, and at least one from the assistant")
    return list(messages)


def tokenize(messages: list[dict[str, str]], tokenizer: Any) -> Sequence:
    """Tokenize a conversation. The mask marks the assistant's messages, including their end tokens.

    Renders the template up to each assistant turn. Raises BadRecord if the template renders earlier turns
    differently when later turns follow, because the turns cannot be located then.
    """
    ids = _render(messages, tokenizer)
    is_assistant = [0] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(messages[:index], tokenizer, add_generation_prompt=True)
        after = _render(messages[: index + 1], tokenizer)
        if ids[: len(after)] != after or after[: len(before)] != before:
            raise BadRecord("the tokenizer's chat template changes earlier turns when later turns follow")
        is_assistant[len(before) : len(after)] = [1] * (len(after) - len(before))
    return Sequence(ids, [*is_assistant[1:], 0])


def _render(
    messages: list[dict[str, str]], tokenizer: Any, *, add_generation_prompt: bool = False
) -> list[int]:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return list(tokenizer.encode(text, add_special_tokens=False))
