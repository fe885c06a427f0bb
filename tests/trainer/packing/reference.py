"""A slow reference: cut a rendered conversation by its marks, turn by turn, instead of by prefixes.

It follows the rules in words, not the packer's way: it needs texts without marks of turns, and knows that
<|im_start|> begins a turn. Templates are rendered by Jinja without the packer's environment.
"""

import json
import re
from functools import cache
from typing import Any

from jinja2 import Environment, Template

START = "<|im_start|>"
ANSWER = START + "assistant\n"

Message = dict[str, Any]
Chunks = list[tuple[str, bool]]


def reference(messages: list[Message], template: str, tools: list[Any] | None = None) -> list[Chunks]:
    """Return for each sequence its text, cut where training begins and ends."""
    if not any(message.get("reasoning_content") for message in messages):
        prompt = _render([], template, None, thinking=False, add_generation_prompt=True)
        prompt = ANSWER + prompt.rpartition(ANSWER)[2]
        text = _render(messages, template, tools, thinking=False)
        return [_cut(text, [prompt, prompt.rstrip()], trained_from=0)]
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    sequences = []
    for user, following in zip(users, [*users[1:], len(messages)], strict=True):
        if following > user + 1:
            text = _render(messages[:following], template, tools, thinking=True)
            before = _render(messages[: user + 1], template, tools, thinking=True)
            prompts = [ANSWER + "<think></think>", ANSWER + "<think>\n"]
            sequences.append(_cut(text, prompts, trained_from=len(before)))
    return sequences


def _cut(text: str, prompts: list[str], trained_from: int) -> Chunks:
    """Train each turn of the assistant from a position on, after what the generation prompt gives.

    A second turn of the assistant in a row has no generation prompt: it is trained from its mark on.
    """
    pieces: Chunks = []
    is_prompted = True
    for turn in re.split(f"(?={re.escape(START)})", text):
        if turn.startswith(ANSWER) and trained_from <= 0:
            given = next(prompt for prompt in prompts if turn.startswith(prompt)) if is_prompted else ""
            pieces += [(given, False), (turn.removeprefix(given), True)]
        else:
            pieces.append((turn, False))
        is_prompted = not turn.startswith(ANSWER)
        trained_from -= len(turn)
    return merged(pieces)


def merged(pieces: Chunks) -> Chunks:
    """Join neighbors that are both trained, or both not."""
    joined: Chunks = []
    for text, trained in pieces:
        if text and joined and joined[-1][1] == trained:
            joined[-1] = (joined[-1][0] + text, trained)
        elif text:
            joined.append((text, trained))
    return joined


def _render(messages: list[Message], template: str, tools: list[Any] | None, **more: Any) -> str:
    values = {"messages": messages or [{"role": "user", "content": ""}], "tools": tools}
    return _compiled(template).render(values, enable_thinking=more.pop("thinking"), **more)


@cache
def _compiled(template: str) -> Template:
    environment = Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template)
