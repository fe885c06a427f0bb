"""What is said about bad records: in a terminal, in JSON, and in a message of bounded length."""

import pickle
from pathlib import Path

import pytest

from trainer.packing.bad_records import BadReason, BadRecord, RecordPlace
from trainer.packing.bad_share import table
from trainer.packing.batches import Tokenized
from trainer.packing.formats import conversation_of
from trainer.packing.messages import parse_json
from trainer.packing.sources.source import Source
from trainer.packing.spill import Spill
from trainer.packing.template_rendering import BadTemplate, ChatTemplate, RenderError
from trainer.quoting import printable

ESCAPE, OVERRIDE = "\x1b]0;owned\x07", "\u202egnp"


@pytest.mark.parametrize(
    "text",
    [
        rb'{"\ud800": 1}', rb'{"\u001b]0;owned\u0007": 1}', rb'{"\u202egnp": 1}', rb'{"a\nb\u2028c": 1}',
    ],
)  # fmt: skip
def test_what_a_record_quotes_is_escaped_and_kept(tmp_path: Path, text: bytes) -> None:
    made = Tokenized(records=1)
    with pytest.raises(BadRecord) as caught:
        conversation_of(parse_json(text, BadReason.NOT_JSON, "The record"))
    made.bad.add(RecordPlace("chats.jsonl", 1), caught.value)
    assert str(caught.value).isprintable()
    assert len(table(made.bad).splitlines()) == 2
    with Spill(tmp_path / "scratch") as spill:
        spill.add(made)
        spill.save()
    with Spill(tmp_path / "scratch") as spill:
        assert spill.bad == made.bad


def test_a_message_is_bounded_and_travels_to_other_processes() -> None:
    error = BadRecord(BadReason.BAD_MESSAGE, "\x1b" * 10_000)
    assert len(str(error)) <= 500
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_names_and_faults_of_templates_are_escaped_too() -> None:
    assert printable("é\udcff" + ESCAPE + OVERRIDE) == r"é\udcff\x1b]0;owned\x07\u202egnp"
    assert Source(f"/data/{ESCAPE}.jsonl").name.isprintable()
    with pytest.raises(BadTemplate) as caught:
        ChatTemplate("{% " + ESCAPE + " %}")
    assert str(caught.value).isprintable()
    with pytest.raises(RenderError) as rejected:
        ChatTemplate("{{ raise_exception(messages[0].role) }}").render(
            [{"role": f"\ud800{ESCAPE}", "content": ""}], enable_thinking=False
        )
    assert str(rejected.value).isprintable()
