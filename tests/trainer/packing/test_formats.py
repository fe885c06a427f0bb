"""Records as people have them: recognized, converted, or rejected with a reason."""

import json
from typing import Any

import pytest

from trainer.packing.bad_records import BadReason, BadRecord
from trainer.packing.formats import Format, conversation_of
from trainer.packing.messages import parse_json

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SHAREGPT = Format.SHAREGPT
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def called(**function: Any) -> dict[str, Any]:
    return {"messages": [QUESTION, {"role": "assistant", "tool_calls": [{"function": function}]}]}


def holding(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}, ANSWER]}


@pytest.mark.parametrize(
    ("record", "form"),
    [
        ({"messages": [QUESTION, ANSWER]}, Format.OPENAI),
        ({"messages": json.dumps([QUESTION, ANSWER])}, Format.OPENAI),
        ({"conversations": [QUESTION, ANSWER]}, Format.OPENAI),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            SHAREGPT,
        ),
        ({"messages": [{"from": "user", "value": "q"}, {"from": "model", "value": "a"}]}, SHAREGPT),
        ({"conversations": '[{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]'}, SHAREGPT),
        ({"messages": None, "conversations": [QUESTION, ANSWER]}, Format.OPENAI),
        ({"instruction": "q", "input": "", "output": "a"}, Format.ALPACA),
        ({"instruction": "", "input": "q", "output": "a"}, Format.ALPACA),
        ({"instruction": "q", "output": "a", "prompt": None, "completion": None}, Format.ALPACA),
        ({"messages": None, "prompt": "q", "completion": "a"}, Format.PROMPT_COMPLETION),
        ({"prompt": "q", "completion": "a"}, Format.PROMPT_COMPLETION),
        ({"prompt": [QUESTION], "completion": [ANSWER]}, Format.PROMPT_COMPLETION),
    ],
)
def test_a_format_is_recognized(record: dict[str, Any], form: Format) -> None:
    for named in (Format.AUTO, form):
        conversation = conversation_of(record, named)
        assert (conversation.messages, conversation.format) == ([QUESTION, ANSWER], form)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ("", ""),
        ("x", "x"),
        ([{"type": "text", "text": "x"}, {"type": "text", "text": "y"}], "xy"),
        ([{"text": "x"}, "y"], "xy"),
        ([], ""),
    ],
)
def test_content_may_be_null_text_or_parts(content: Any, text: str) -> None:
    assert conversation_of(holding(content)).messages[0]["content"] == text


def test_a_refusal_is_what_the_assistant_says() -> None:
    refused = {"role": "assistant", "content": None, "refusal": "No."}
    parts = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    for message in (refused, parts):
        assert conversation_of({"messages": [QUESTION, message]}).messages[1]["content"] == "No."


def test_a_developer_is_the_system() -> None:
    record = {"messages": [{"role": "developer", "content": "Be brief."}, QUESTION, ANSWER]}
    assert conversation_of(record).messages[0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("arguments", [{"x": 1}, '{"x": 1}'])
def test_arguments_of_tools_become_objects(arguments: Any) -> None:
    conversation = conversation_of({**called(name="f", arguments=arguments), "tools": json.dumps([CALL])})
    [call] = conversation.messages[1]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": {"x": 1}}
    assert conversation.tools == [CALL]


def test_sharegpt_has_tools_too() -> None:
    turns = [
        {"from": "human", "value": "q"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
        {"from": "observation", "value": "12"},
        {"from": "gpt", "value": "a", "weight": 0},
    ]
    conversation = conversation_of({"conversations": turns, "system": "s", "tools": "[]"})
    assert [message["role"] for message in conversation.messages] == [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert conversation.messages[2]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    assert conversation.untrained == {4}


def test_sharegpt_keeps_what_a_turn_has() -> None:
    answer = {"from": "gpt", "value": "a", "reasoning_content": "hm", "tool_calls": [CALL]}
    conversation = conversation_of({"conversations": [{"from": "human", "value": "q"}, answer]})
    assert conversation.messages[1]["reasoning_content"] == "hm"
    assert conversation.messages[1]["tool_calls"] == [CALL]


def test_a_single_function_call_is_a_tool_call() -> None:
    """As OpenAI had it before tools."""
    called_before = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    returned = {"role": "function", "name": "f", "content": "12"}
    messages = conversation_of({"messages": [QUESTION, called_before, returned, ANSWER]}).messages
    assert messages[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    assert "function_call" not in messages[1]
    assert messages[2]["role"] == "tool"


def test_alpaca_has_input_system_and_history() -> None:
    record = {"instruction": "i", "input": "n", "output": "a", "system": "s", "history": [["q1", "a1"]]}
    texts = [message["content"] for message in conversation_of(record).messages]
    assert texts == ["s", "q1", "a1", "i\nn", "a"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (7, BadReason.NOT_AN_OBJECT),
        ([QUESTION], BadReason.NOT_AN_OBJECT),
        ({"text": "a"}, BadReason.UNKNOWN_FORMAT),
        ({}, BadReason.UNKNOWN_FORMAT),
        ({"messages": []}, BadReason.NO_MESSAGES),
        ({"messages": None}, BadReason.NO_MESSAGES),
        ({"messages": {"role": "user"}}, BadReason.BAD_MESSAGE),
        ({"messages": "[{"}, BadReason.BAD_MESSAGE),
        ({"messages": ["hello"]}, BadReason.BAD_MESSAGE),
        ({"messages": [{"content": "a"}]}, BadReason.BAD_MESSAGE),
        ({"messages": [{"role": 5, "content": "a"}]}, BadReason.BAD_MESSAGE),
        ({"messages": [{**ANSWER, "weight": 0.5}]}, BadReason.BAD_MESSAGE),
        ({"messages": [{**ANSWER, "train": "no"}]}, BadReason.BAD_MESSAGE),
        ({"messages": [{**ANSWER, "weight": []}]}, BadReason.BAD_MESSAGE),
        ({"conversations": [{"from": "gpt", "value": "a"}, 5]}, BadReason.BAD_MESSAGE),
        ({"instruction": "i", "output": "a", "history": [["q"]]}, BadReason.BAD_MESSAGE),
        (holding(7), BadReason.BAD_CONTENT),
        (holding({"text": "a"}), BadReason.BAD_CONTENT),
        (holding([{"type": "image_url", "image_url": {}}]), BadReason.BAD_CONTENT),
        (holding([{"type": "text"}]), BadReason.BAD_CONTENT),
        (holding([{"type": [], "text": "a"}]), BadReason.BAD_CONTENT),
        (holding([5]), BadReason.BAD_CONTENT),
        ({"messages": [{**ANSWER, "reasoning_content": ["a"]}]}, BadReason.BAD_CONTENT),
        ({"prompt": 5, "completion": "a"}, BadReason.BAD_CONTENT),
        ({"instruction": 5, "output": "a"}, BadReason.BAD_CONTENT),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt"}]}, BadReason.BAD_CONTENT),
        ({"messages": [QUESTION, ANSWER] * 501}, BadReason.TOO_LONG),
        (called(name="f", arguments="no JSON"), BadReason.BAD_TOOL_CALL),
        (called(name="f", arguments=""), BadReason.BAD_TOOL_CALL),
        (called(name="f", arguments="[1]"), BadReason.BAD_TOOL_CALL),
        (called(name="f", arguments="NaN"), BadReason.BAD_TOOL_CALL),
        (called(name="f"), BadReason.BAD_TOOL_CALL),
        (called(arguments={}), BadReason.BAD_TOOL_CALL),
        ({"messages": [{"role": "assistant", "tool_calls": "f()"}]}, BadReason.BAD_TOOL_CALL),
        ({"messages": [{"role": "assistant", "tool_calls": ["f()"]}]}, BadReason.BAD_TOOL_CALL),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, BadReason.BAD_TOOL_CALL),
        ({"messages": [QUESTION, ANSWER], "tools": {"name": "f"}}, BadReason.BAD_TOOLS),
        ({"messages": [QUESTION, ANSWER], "tools": ["f"]}, BadReason.BAD_TOOLS),
        ({"messages": [QUESTION, ANSWER], "tools": "f"}, BadReason.BAD_TOOLS),
        ({"messages": [QUESTION, {**ANSWER, "content": "<tool_call>f</tool_call>"}]}, BadReason.LOST_TOOLS),
        ({"messages": [QUESTION, {**ANSWER, "reasoning_content": "<tool_call>"}]}, BadReason.LOST_TOOLS),
    ],
)
def test_a_bad_record_has_a_reason(record: Any, reason: BadReason) -> None:
    with pytest.raises(BadRecord) as caught:
        conversation_of(record)
    assert caught.value.reason is reason
    assert 10 < len(str(caught.value)) <= 400


def test_tool_calls_in_text_are_kept_with_their_definitions() -> None:
    system = {"role": "system", "content": "# Tools\nf"}
    assert conversation_of({"messages": [system, QUESTION, {**ANSWER, "content": "<tool_call>f"}]})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", BadReason.NOT_JSON),
        (b'{"a": NaN}', BadReason.NOT_JSON),
        (b'{"a": -Infinity}', BadReason.NOT_JSON),
        (b"\xff\xfe{\x00", BadReason.NOT_UTF8),
        (b"[" * 100_000, BadReason.TOO_DEEP),
        (b"[" + b"0," * 1_100_000 + b"0]", BadReason.TOO_LONG),
        (b'{"a": ' + b"1" * 5000 + b"}", BadReason.NOT_JSON),
    ],
)
def test_json_that_cannot_be_used(text: bytes, reason: BadReason) -> None:
    with pytest.raises(BadRecord) as caught:
        parse_json(text, BadReason.NOT_JSON, "The record")
    assert caught.value.reason is reason
    assert len(str(caught.value)) <= 300


def test_of_duplicate_keys_the_last_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}', BadReason.NOT_JSON, "The record") == {"a": 2}
