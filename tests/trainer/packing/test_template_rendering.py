"""Chat templates are code of somebody else: Jinja's sandbox runs them, with what transformers gives them."""

import pickle
import resource
import tracemalloc
from datetime import date

import pytest

from trainer.checkpoint_safety.hugging_face import MAX_TEMPLATE_BYTES
from trainer.packing import template_rendering
from trainer.packing.bad_records import BadReason, BadRecord
from trainer.packing.chunks import MaskRule, chunks_of
from trainer.packing.formats import conversation_of
from trainer.packing.template_rendering import BadTemplate, ChatTemplate, RenderError

MESSAGES = [{"role": "user", "content": "é<b>"}]


def rendered(text: str) -> str:
    return ChatTemplate(text, {"bos_token": "<s>"}).render(MESSAGES, enable_thinking=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", "<s>é<b>"),
        ("{{ messages | tojson }}", '[{"role": "user", "content": "é<b>"}]'),
        ("{% for m in messages %}{% break %}{% endfor %}", ""),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}!", "user!"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("  {% if enable_thinking %}\n  x\n  {% endif %}", "  x\n"),
        ("{{ tools is none }}", "True"),
    ],
)
def test_templates_have_what_transformers_gives_them(text: str, expected: str) -> None:
    assert rendered(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('id') }}",
        "{{ raise_exception.__globals__.json }}",
        "{% set _ = messages.append(1) %}",
        "{{ range(10**9) | list }}",
        "{% for a, b in messages[0].content | items %}{% endfor %}",
        "{{ undefined_name.attribute }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' * 99999 }}{% endfor %}{% endfor %}",
        "{{ raise_exception('not this') }}",
        "{% include 'x' %}",
        "{% import '/etc/passwd' as x %}",
    ],
)
def test_a_template_can_only_render(text: str) -> None:
    with pytest.raises(RenderError) as caught:
        rendered(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "{% if %}", "{{", "{% for %}", "{{ " + "(" * 5000 + " }}", "{{ " + "9" * 5000 + " }}",
        "{% for a in b %}" * 30 + "{% endfor %}" * 30,
    ],
)  # fmt: skip
def test_a_template_with_a_fault_is_rejected(text: str) -> None:
    with pytest.raises(BadTemplate, match="fault"):
        ChatTemplate(text)


@pytest.mark.parametrize(
    "text",
    [
        "{% set x = 'a' * 300000000 %}",
        "{{ 'a' * 300000000 }}",
        "{{ 'a' | center(300000000) }}",
        "{% set x = namespace(y='a' * 9**5) %}{% for _ in range(40) %}{% set x.y = x.y ~ x.y %}{% endfor %}",
    ],
)
def test_a_template_has_a_limit_of_memory(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(template_rendering, "MAX_MEMORY_BYTES", 200 << 20)
    tracemalloc.start()
    template = ChatTemplate(text)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    with pytest.raises(RenderError, match="MemoryError"):
        template.render(MESSAGES, enable_thinking=False)
    assert rendered("{{ 'a' * 3 }}") == "aaa"
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_a_template_has_a_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    monkeypatch.setattr(template_rendering, "MAX_SECONDS", 0.05)
    with pytest.raises(RenderError, match=r"more than 0.05 s"):
        template.render(MESSAGES, enable_thinking=False)
    record = {"messages": [*MESSAGES, {"role": "assistant", "content": "b"}]}
    with pytest.raises(BadRecord) as caught:
        list(chunks_of(conversation_of(record), template, MaskRule.ASSISTANT))
    assert caught.value.reason is BadReason.TEMPLATE_ERROR


def test_a_template_is_bounded() -> None:
    with pytest.raises(BadTemplate, match="more than"):
        ChatTemplate("é" * (MAX_TEMPLATE_BYTES // 2 + 1))


def test_a_template_gives_the_same_text_each_time() -> None:
    template = ChatTemplate("{{ strftime_now('%d %b %Y %H:%M:%S') }}", day=date(2020, 1, 2))
    again = pickle.loads(pickle.dumps(template))
    for one in (template, again):
        assert one.render(MESSAGES, enable_thinking=False) == "02 Jan 2020 00:00:00"
    with pytest.raises(BadTemplate, match="No filter named 'random'"):
        ChatTemplate("{{ messages | random }}")
    with pytest.raises(RenderError, match="'lipsum' is undefined"):
        rendered("{{ lipsum() }}")


def test_a_template_travels_to_other_processes() -> None:
    template = pickle.loads(pickle.dumps(ChatTemplate("{{ bos_token }}", {"bos_token": "<s>"})))
    assert template.render(MESSAGES, enable_thinking=False) == "<s>"
