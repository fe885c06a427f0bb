"""Check a message of a record, and convert it to what chat templates take."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from trainer.bounded_json import MAX_VALUES, most_values_of
from trainer.packing.bad_records import BadReason, BadRecord

Message = dict[str, Any]

# What OpenAI calls the system message since its reasoning models, and called the results of tools before.
ROLES = {"developer": "system", "function": "tool"}


def parse_json(text: Any, reason: BadReason, what: str) -> Any:
    """Parse JSON text of a record; of duplicate keys the last one counts. Raises BadRecord."""
    if not isinstance(text, str | bytes):
        raise BadRecord(reason, f"{what} must be JSON text.")
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        if most_values_of(text) > MAX_VALUES:
            raise BadRecord(BadReason.TOO_LONG, f"{what} has more than {MAX_VALUES} values.")
        return json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise BadRecord(BadReason.NOT_UTF8, f"{what} is not UTF-8: byte {error.start + 1}.") from None
    except RecursionError:
        raise BadRecord(BadReason.TOO_DEEP, f"{what} is nested too deeply.") from None
    except BadRecord:
        raise
    except ValueError as error:
        raise BadRecord(reason, f"{what} is not JSON: {error}."[:300]) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def openai_message(written: Any, number: int) -> tuple[Message, bool]:
    """Return a message in OpenAI's form, and whether it may be trained. number: counts from 1, for errors.

    Raises BadRecord.
    """
    if not isinstance(written, Mapping) or not isinstance(written.get("role"), str) or not written["role"]:
        raise BadRecord(BadReason.BAD_MESSAGE, f'Message {number} needs a "role", which is text.')
    message = {str(name): value for name, value in written.items() if value is not None}
    is_trained = _is_trained(message.pop("weight", 1), message.pop("train", 1), number)
    message["role"] = ROLES.get(message["role"], message["role"])
    message["content"] = _text(message.get("content"), number) or _refusal(message)
    if not isinstance(message.get("reasoning_content", ""), str):
        raise BadRecord(BadReason.BAD_CONTENT, f"Message {number}: reasoning_content must be text.")
    if message["role"] == "assistant" and (calls := _called(message)):
        message["tool_calls"] = _tool_calls(calls, number)
    return message, is_trained


def _is_trained(weight: Any, train: Any, number: int) -> bool:
    """A mask knows 0 and 1 only."""
    if weight not in (0, 1) or train not in (0, 1):
        raise BadRecord(BadReason.BAD_MESSAGE, f"Message {number}: weight and train must be 0 or 1.")
    return bool(weight) and bool(train)


def _text(content: Any, number: int) -> str:
    """Return content, which may be null, text, or parts of text."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(_part(part, number) for part in content)
    raise BadRecord(BadReason.BAD_CONTENT, f"Message {number}: content must be null, text, or parts of text.")


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        kind = part.get("type", "text")
        text = part.get(kind) if kind in ("text", "refusal") else None
        if isinstance(text, str):
            return text
        if kind != "text":
            raise BadRecord(
                BadReason.BAD_CONTENT,
                f"Message {number} has a part of type {kind!r:.40}; only text is trained.",
            )
    raise BadRecord(BadReason.BAD_CONTENT, f"Message {number} has a part without text.")


def _refusal(message: Message) -> str:
    """What the assistant says when it refuses stands in a field of its own."""
    refusal = message.get("refusal")
    return refusal if isinstance(refusal, str) else ""


def _called(message: Message) -> Any:
    """Take the tool calls out of a message. `function_call` is how OpenAI had a single one before."""
    calls, single = message.pop("tool_calls", None), message.pop("function_call", None)
    return calls or ([{"type": "function", "function": single}] if single else None)


def _tool_calls(calls: Any, number: int) -> list[Message]:
    if not isinstance(calls, list):
        raise BadRecord(BadReason.BAD_TOOL_CALL, f"Message {number}: tool_calls must be a list.")
    return [_tool_call(call, number) for call in calls]


def _tool_call(call: Any, number: int) -> Message:
    """Return a call with its arguments as an object."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRecord(
            BadReason.BAD_TOOL_CALL,
            f'Message {number}: a tool call needs "function" with "name" and "arguments".',
        )
    arguments = function.get("arguments")
    if not isinstance(arguments, Mapping):
        arguments = parse_json(arguments, BadReason.BAD_TOOL_CALL, f"Message {number}: arguments")
    if not isinstance(arguments, Mapping):
        raise BadRecord(BadReason.BAD_TOOL_CALL, f"Message {number}: arguments must be a JSON object.")
    return {**call, "function": {**function, "arguments": dict(arguments)}}
