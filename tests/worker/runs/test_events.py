"""Reading what a run has written, whatever it has written."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.event_examples import AT, ENDINGS, EXAMPLES
from tests.support.trainer_runs import PROJECT
from trainer.events import ENVELOPE, AnyEvent
from worker.runs.events import MAX_CHARACTERS, read_ending, read_event

GOLDEN = PROJECT / "tests" / "golden" / "events"


def facts(event: Any) -> dict[str, Any]:
    found: dict[str, Any] = event.model_dump(exclude=ENVELOPE - {"event"})
    return found


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("folder", [GOLDEN, GOLDEN / "unversioned"], ids=["today's", "of before versions"])
def test_each_golden_line_is_read_as_it_was_written(name: str, folder: Path) -> None:
    event = read_event((folder / f"{name}.json").read_bytes())
    assert facts(event) == facts(EXAMPLES[name])
    assert (event.version, event.seq, event.rank, event.at) == (1, 0, 3, AT)


@pytest.mark.parametrize("name", ENDINGS)
def test_each_ending_is_read_from_the_end_marker(name: str) -> None:
    assert facts(read_ending((GOLDEN / f"{name}.json").read_bytes())) == facts(ENDINGS[name])


def line(**changes: Any) -> bytes:
    fields = json.loads((GOLDEN / "checkpoint.json").read_text())
    return json.dumps({**fields, **changes}).encode()


def test_fields_of_a_later_version_are_ignored() -> None:
    assert facts(read_event(line(version=2, colour="blue"))) == facts(EXAMPLES["checkpoint"])


@pytest.mark.parametrize(
    "broken",
    [
        b"", b"[]", b"null", b"7", b"{", b"\xff\x00", b"[" * 100_000, b'{"event": "checkpoint"}',
        line(event="none"), line(at="yesterday"), line(at="2026-01-02T03:04:05"),
        line(at="0001-01-01T00:00:00+14:00"), line(iteration=-1), line(iteration=2**31), line(iteration=1.0),
        line(iteration=True), line(bytes=2**63),
        line(files=[{"path": "../escape", "bytes": 1}]), line(files=[{"path": "/etc/passwd", "bytes": 1}]),
        line(files=[{"path": "a//b", "bytes": 1}]), line(files=[{"path": "a\nb", "bytes": 1}]),
        line(files=[{"path": "x" * 256, "bytes": 1}]), line(files=[{"path": "", "bytes": 1}]),
    ],
)  # fmt: skip
def test_a_line_that_is_no_event_is_a_value_error(broken: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_event(broken)


def test_an_event_without_a_time_is_none() -> None:
    fields = json.loads(line())
    del fields["at"]
    with pytest.raises(ValueError, match="at"):
        read_event(json.dumps(fields).encode())


def test_texts_fit_every_database() -> None:
    event: AnyEvent = read_event(line(event="failed", message="bad \0 and \ud800" + "x" * 2 * MAX_CHARACTERS))
    assert event.event == "failed"
    assert event.message.startswith("bad \ufffd and ?x")
    assert len(event.message) == MAX_CHARACTERS


def test_an_event_of_many_values_is_not_parsed() -> None:
    few, many = (b'{"files": [' + b"[]," * number + b"[]]}" for number in (10, 1_000_000))
    with pytest.raises(ValueError, match="`at`"):
        read_event(few)
    with pytest.raises(ValueError, match="more than 1000000 values"):
        read_event(many)
