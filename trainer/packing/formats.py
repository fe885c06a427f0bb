"""Convert records to conversations: OpenAI messages, ShareGPT, Alpaca, prompt and completion.

| format            | recognized by                                                                       |
|-------------------|-------------------------------------------------------------------------------------|
| openai            | `messages` (or `conversations`): [{"role", "content", ...}], and `tools`             |
| sharegpt          | `conversations` (or `messages`): [{"from", "value"}], `system`, `tools`              |
| prompt_completion | `prompt` and `completion`: text, or lists of messages                               |
| alpaca            | `instruction` and `output`, with `input`, `system`, `history`                       |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from trainer.packing.bad_records import BadReason, BadRecord
from trainer.packing.messages import Message, openai_message, parse_json

Record = Mapping[str, Any]

# Roles of ShareGPT and its relatives.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
}
FUNCTION_CALL = "function_call"
# Each message is rendered with all before it: the time of a record grows with the square.
MAX_MESSAGES = 1000


class Format(StrEnum):
    """How records are written."""

    AUTO = "auto"
    OPENAI = "openai"
    SHAREGPT = "sharegpt"
    ALPACA = "alpaca"
    PROMPT_COMPLETION = "prompt_completion"


@dataclass(frozen=True)
class Conversation:
    """Messages as chat templates take them."""

    messages: list[Message]
    tools: list[Any] | None = None
    untrained: frozenset[int] = frozenset()
    """Messages of the assistant that are not trained: `weight` or `train` is 0."""
    format: Format = Format.OPENAI


def conversation_of(
    record: Any, form: Format = Format.AUTO, messages_field: str = "messages", tools_field: str = "tools"
) -> Conversation:
    """Convert a record. Raises BadRecord."""
    if not isinstance(record, Mapping):
        raise BadRecord(BadReason.NOT_AN_OBJECT, f"A record is a JSON object; this is {_kind(record)}.")
    record = _with_turns(record, messages_field)
    form = _recognized(record) if form is Format.AUTO else form
    written = _CONVERTERS[form](record)
    if not written:
        raise BadRecord(BadReason.NO_MESSAGES, "The record has no messages.")
    if len(written) > MAX_MESSAGES:
        raise BadRecord(BadReason.TOO_LONG, f"The record has more than {MAX_MESSAGES} messages. Split it.")
    messages, untrained = [], set()
    for place, message in enumerate(written):
        converted, is_trained = openai_message(message, place + 1)
        messages.append(converted)
        if not is_trained:
            untrained.add(place)
    conversation = Conversation(messages, _tools(record.get(tools_field)), frozenset(untrained), form)
    _require_tools(conversation)
    return conversation


def _with_turns(record: Record, messages_field: str) -> Record:
    """Put the turns of a conversation under `messages`, as a list."""
    names = (messages_field, "messages", "conversations")
    found = [turns for name in names if (turns := record.get(name)) is not None]
    turns = next(filter(None, found), None)
    return {**record, "messages": _list(turns, "messages")} if found else record


def _recognized(record: Record) -> Format:
    has = {name for name, value in record.items() if value is not None}
    if turns := record.get("messages"):
        is_sharegpt = isinstance(turns[0], Mapping) and "from" in turns[0] and "role" not in turns[0]
        return Format.SHAREGPT if is_sharegpt else Format.OPENAI
    if has >= {"prompt", "completion"}:
        return Format.PROMPT_COMPLETION
    if has >= {"instruction", "output"}:
        return Format.ALPACA
    if "messages" in record or "conversations" in record:
        return Format.OPENAI  # without messages
    raise BadRecord(
        BadReason.UNKNOWN_FORMAT,
        f"The record has the fields {', '.join(sorted(map(str, record)))[:200] or '(none)'}. "
        "Needed: messages, conversations, prompt and completion, or instruction and output.",
    )


def _openai(record: Record) -> list[Any]:
    return _list(record.get("messages"), "messages")


def _sharegpt(record: Record) -> list[Any]:
    return [*_system(record), *map(_sharegpt_turn, _openai(record))]


def _sharegpt_turn(turn: Any) -> Any:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("from"), str):
        raise BadRecord(BadReason.BAD_MESSAGE, 'Each turn needs "from" and "value".')
    others = {name: value for name, value in turn.items() if name not in ("from", "value")}
    if turn["from"] == FUNCTION_CALL:
        call = parse_json(turn.get("value"), BadReason.BAD_TOOL_CALL, "The value of a function_call")
        return {**others, "role": "assistant", "tool_calls": [{"type": "function", "function": call}]}
    role = ROLES.get(turn["from"], turn["from"])
    if role == "assistant" and not others.get("tool_calls"):
        return others | _assistant(turn.get("value"))
    return {**others, "role": role, "content": turn.get("value")}


def _alpaca(record: Record) -> list[Any]:
    asked, more = record.get("instruction"), record.get("input")
    is_text = isinstance(asked, str) and isinstance(more, str)
    question = "\n".join(filter(None, (asked, more))) if is_text else asked
    earlier = [turn for pair in _list(record.get("history") or [], "history") for turn in _exchange(pair)]
    return [*_system(record), *earlier, _user(question), _assistant(record.get("output"))]


def _exchange(pair: Any) -> list[Message]:
    if not isinstance(pair, list) or len(pair) != 2:
        raise BadRecord(BadReason.BAD_MESSAGE, "history is a list of pairs: question and answer.")
    return [_user(pair[0]), _assistant(pair[1])]


def _prompt_completion(record: Record) -> list[Any]:
    prompt, completion = record.get("prompt"), record.get("completion")
    asked = prompt if isinstance(prompt, list) else [_user(prompt)]
    answered = completion if isinstance(completion, list) else [_assistant(completion)]
    return [*_system(record), *asked, *answered]


def _system(record: Record) -> list[Message]:
    return [{"role": "system", "content": record["system"]}] if record.get("system") else []


def _user(text: Any) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: Any) -> Message:
    """Return an answer. Raises BadRecord if there is none: an empty one would be trained."""
    if text is None:
        raise BadRecord(BadReason.BAD_CONTENT, "An answer is missing.")
    return {"role": "assistant", "content": text}


_CONVERTERS: dict[Format, Callable[[Record], list[Any]]] = {
    Format.OPENAI: _openai,
    Format.SHAREGPT: _sharegpt,
    Format.ALPACA: _alpaca,
    Format.PROMPT_COMPLETION: _prompt_completion,
}


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str):  # a column of JSON text
        value = parse_json(value, BadReason.BAD_MESSAGE, name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadRecord(BadReason.BAD_MESSAGE, f"{name} must be a list; it is {_kind(value)}.")
    return value


def _tools(value: Any) -> list[Any] | None:
    """Return tool definitions, which some records have as JSON text."""
    if isinstance(value, str):
        value = parse_json(value, BadReason.BAD_TOOLS, "tools") if value.strip() else None
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRecord(BadReason.BAD_TOOLS, "tools must be a list of objects: definitions of functions.")
    return value


def _require_tools(conversation: Conversation) -> None:
    """Reject tool calls in text whose tool definitions were lost, as NVIDIA's step does."""
    texts = [
        text
        for message in conversation.messages
        for text in (message["content"], message.get("reasoning_content"))
        if isinstance(text, str)
    ]
    if any("<tool_call>" in text for text in texts) and not any("# Tools" in text for text in texts):
        raise BadRecord(
            BadReason.LOST_TOOLS, 'A text contains "<tool_call>", and none has the definitions ("# Tools").'
        )


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "text", type(None): "null", dict: "an object", bool: "true or false"}
    return kinds.get(type(value), "a number")
