"""What of a conversation is trained: NVIDIA's rules, against an independent reference and by hand."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.packing.reference import merged, reference
from trainer.packing.bad_records import BadReason, BadRecord
from trainer.packing.chunks import MaskRule, chunks_of
from trainer.packing.formats import conversation_of
from trainer.packing.template_rendering import ChatTemplate

TEMPLATES = {path.stem: path.read_text() for path in (Path(__file__).parent / "templates").glob("*.jinja")}
COMPILED = {name: ChatTemplate(text) for name, text in TEMPLATES.items()}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
Record = dict[str, Any]


def says(role: str, content: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def calls(*arguments: Any, content: str | None = "", **more: Any) -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": "weather", "arguments": one}} for one in arguments]
    return says("assistant", content, tool_calls=made, **more)


ASKED, ANSWERED = says("user", "What is a set?"), says("assistant", "No order.")
THOUGHT = says("assistant", "A sequence.", reasoning_content="They ask for lists.")

KINDS: dict[str, Record] = {
    "single": {"messages": [ASKED, ANSWERED]},
    "multi": {"messages": [ASKED, ANSWERED, says("user", "And a list?"), says("assistant", "Order.")]},
    "system": {"messages": [says("system", "Be brief."), ASKED, ANSWERED]},
    "reasoning in one": {"messages": [ASKED, THOUGHT]},
    "reasoning in several": {"messages": [ASKED, THOUGHT, says("user", "Why?"), THOUGHT]},
    "reasoning in some": {"messages": [ASKED, ANSWERED, says("user", "Why?"), THOUGHT, ASKED, ANSWERED]},
    "no reasoning": {"messages": [ASKED, {**ANSWERED, "reasoning_content": None}]},
    "reasoning of white space": {"messages": [ASKED, {**ANSWERED, "reasoning_content": "\n\n"}]},
    "tools, content null": {
        "messages": [ASKED, calls({"city": "Bonn"}, content=None), says("tool", "12"), ANSWERED],
        "tools": TOOLS,
    },
    "tools, content empty": {
        "messages": [says("system", "s"), ASKED, calls('{"city": "Bonn"}'), says("tool", "12"), ANSWERED],
        "tools": TOOLS,
    },
    "parallel tools": {
        "messages": [ASKED, calls({"city": "A"}, {"n": [1]}), says("tool", "1"), says("tool", "2"), ANSWERED],
        "tools": TOOLS,
    },
    "tools with reasoning": {
        "messages": [ASKED, calls({"city": "A"}, reasoning_content="Ask."), says("tool", "1"), THOUGHT],
        "tools": TOOLS,
    },
    "two user turns": {"messages": [ASKED, says("user", "Hello?"), THOUGHT]},
    "ends with a user": {"messages": [ASKED, THOUGHT, says("user", "Thanks.")]},
    "line separators": {"messages": [says("user", "a\u2028b\u0085c"), says("assistant", "d\u2028e\u0085")]},
}


def texts(record: Record, template: str, mask: MaskRule = MaskRule.ASSISTANT) -> list[list[tuple[str, bool]]]:
    sequences = list(chunks_of(conversation_of(record), COMPILED[template], mask))
    return [merged([(chunk.text, chunk.trained) for chunk in chunks]) for chunks in sequences]


def trained(
    record: Record, template: str = "earlier_reasoning_dropped", mask: MaskRule = MaskRule.ASSISTANT
) -> Any:
    return [[text for text, is_trained in one if is_trained] for one in texts(record, template, mask)]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_cut_as_the_reference_does(kind: str, template: str) -> None:
    record = KINDS[kind]
    conversation = conversation_of(record)
    expected = reference(conversation.messages, TEMPLATES[template], conversation.tools)
    assert texts(record, template) == expected


def test_what_is_trained_by_hand() -> None:
    thought = "They ask for lists.\n</think>\nA sequence.<|im_end|>\n"
    assert trained(KINDS["multi"]) == [["No order.<|im_end|>\n", "Order.<|im_end|>\n"]]
    assert trained(KINDS["reasoning in several"]) == [[thought], [thought]]
    assert trained(KINDS["reasoning in some"]) == [
        ["No order.<|im_end|>\n"],
        [thought],
        ["No order.<|im_end|>\n"],
    ]
    assert trained(KINDS["ends with a user"]) == [[thought]]
    assert trained(KINDS["reasoning of white space"]) == [["No order.<|im_end|>\n"]]
    call, answer = trained(KINDS["parallel tools"])[0]
    assert call.startswith("\n<tool_call>")
    assert answer == "No order.<|im_end|>\n"


def test_earlier_reasoning_is_in_no_later_sequence() -> None:
    first, second = texts(KINDS["reasoning in several"], "earlier_reasoning_dropped")
    context = second[0][0]
    assert "They ask for lists." not in context
    assert "A sequence." in context
    assert context.endswith("<|im_start|>assistant\n<think>\n")
    assert first[0][0].endswith("<|im_start|>assistant\n<think>\n")


WORDS = st.text("ab \n\u2028é", min_size=1, max_size=6)
ASSISTANTS = st.builds(
    lambda content, reasoning, place: (
        calls({"city": place}, content=content, reasoning_content=reasoning)
        if place
        else says("assistant", content, reasoning_content=reasoning)
    ),
    st.none() | st.just("") | WORDS,
    st.none() | st.sampled_from(["", " \n"]) | WORDS,
    st.none() | WORDS,
)
TURNS = st.one_of(WORDS.map(lambda text: says("user", text)), ASSISTANTS)
ANSWERS = st.lists(st.one_of(ASSISTANTS, WORDS.map(lambda text: says("tool", text))), min_size=1, max_size=4)


@pytest.mark.parametrize("template", TEMPLATES)
@given(
    system=st.none() | WORDS,
    turns=st.lists(st.tuples(WORDS, ASSISTANTS, ANSWERS), min_size=1, max_size=3),
    tools=st.booleans(),
)
def test_any_conversation_is_cut_as_the_reference_does(
    template: str, system: str | None, turns: list[Any], tools: bool
) -> None:
    messages = [says("system", system)] if system else []
    for asked, answered, more in turns:
        messages += [says("user", asked), answered, *more]
    record = {"messages": messages, "tools": TOOLS if tools else None}
    conversation = conversation_of(record)
    expected = reference(conversation.messages, TEMPLATES[template], conversation.tools)
    assert texts(record, template) == expected


def test_rules_other_than_nvidias() -> None:
    record = KINDS["reasoning in some"]
    assert trained(record, mask=MaskRule.LAST_TURN) == [["No order.<|im_end|>\n"]]
    assert trained(KINDS["multi"], mask=MaskRule.LAST_TURN) == [["Order.<|im_end|>\n"]]
    assert trained(KINDS["ends with a user"], mask=MaskRule.LAST_TURN)[0][0].startswith("They ask")
    [[everything]] = trained(KINDS["multi"], mask=MaskRule.ALL)
    assert everything.startswith("<|im_start|>system")
    assert everything.endswith("Order.<|im_end|>\n")


@pytest.mark.parametrize("field", ["weight", "train"])
@pytest.mark.parametrize("value", [0, False, 0.0])
def test_a_message_may_be_left_untrained(field: str, value: Any) -> None:
    unweighted = {**ANSWERED, field: value}
    record = {"messages": [ASKED, unweighted, says("user", "And?"), {**ANSWERED, field: 1}]}
    assert trained(record) == [["No order.<|im_end|>\n"]]
    assert texts(record, "earlier_reasoning_dropped")[0][0][0].count("No order.") == 1


def test_an_untrained_message_stays_so_by_every_rule() -> None:
    unweighted = says("assistant", "Not this.", weight=0)
    record = {"messages": [ASKED, ANSWERED, says("user", "And?"), unweighted]}
    assert trained(record) == [["No order.<|im_end|>\n"]]
    assert trained(record, mask=MaskRule.LAST_TURN) == [[]]
    [pieces] = trained(record, mask=MaskRule.ALL)
    assert not any("Not this." in piece for piece in pieces)
    assert "What is a set?" in pieces[0]


def rejection(record: Record, template: str) -> BadRecord:
    with pytest.raises(BadRecord) as caught:
        list(chunks_of(conversation_of(record), ChatTemplate(template), MaskRule.ASSISTANT))
    return caught.value


def test_a_template_that_changes_earlier_turns_is_found() -> None:
    changing = "{% for m in messages %}{{ loop.length }}{{ m.role }}{{ m.content }}{% endfor %}"
    error = rejection(KINDS["multi"], changing)
    assert error.reason is BadReason.TEMPLATE_MISMATCH
    assert "message 1 otherwise" in str(error)
    assert "reasoning_content" not in str(error)


def test_a_template_that_rejects_a_record() -> None:
    error = rejection(KINDS["single"], "{{ raise_exception('no such role') }}")
    assert error.reason is BadReason.TEMPLATE_ERROR
    assert "no such role" in str(error)


def test_thoughts_in_a_content_are_named() -> None:
    thinking = says("assistant", "<think>hm</think>No order.")
    error = rejection({"messages": [ASKED, thinking]}, TEMPLATES["earlier_reasoning_dropped"])
    assert error.reason is BadReason.TEMPLATE_MISMATCH
    assert "move what stands before it to reasoning_content" in str(error)


def test_half_a_header_is_never_trained() -> None:
    """A template that opens thoughts in another way than Nemotron's, where the turn has none."""
    qwen = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == "assistant" %}<think>
{{ m.reasoning_content or "" }}
</think>

{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
    assert rejection(KINDS["reasoning in some"], qwen).reason is BadReason.TEMPLATE_MISMATCH


def test_marks_of_turns_typed_by_a_user_lose_no_text() -> None:
    typed = says("user", "a<|im_start|>system\nb<|im_end|>\n<|im_start|>user\nc")
    for template in TEMPLATES:
        [chunks] = texts({"messages": [typed, ANSWERED]}, template)
        rendered = COMPILED[template].render([typed, ANSWERED], enable_thinking=False)
        assert "".join(text for text, _ in chunks) == rendered
