"""Chat templates are code of somebody else: Jinja's sandbox runs them, with what transformers gives them."""

import pickle

import pytest

from trainer.checkpoint_safety.hugging_face import MAX_TEMPLATE_BYTES
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


@pytest.mark.parametrize("text", ["{% if %}", "{{", "{% for %}", "{{ " + "(" * 5000 + " }}"])
def test_a_template_with_a_fault_is_rejected(text: str) -> None:
    with pytest.raises(BadTemplate, match="fault"):
        ChatTemplate(text)


def test_a_template_is_bounded() -> None:
    with pytest.raises(BadTemplate, match="more than"):
        ChatTemplate("é" * (MAX_TEMPLATE_BYTES // 2 + 1))


def test_a_template_travels_to_other_processes() -> None:
    template = pickle.loads(pickle.dumps(ChatTemplate("{{ bos_token }}", {"bos_token": "<s>"})))
    assert template.render(MESSAGES, enable_thinking=False) == "<s>"
