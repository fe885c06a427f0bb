"""The event lines and the end marker."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import time_machine

from tests.support.event_examples import AT, EXAMPLES
from tests.support.trainer_runs import PROJECT
from trainer.event_writer import EventWriter
from trainer.events import Failed, Finished, RunEvent, Started, StepDone

GOLDEN = PROJECT / "tests" / "golden" / "events"


def lines(run_dir: Path) -> list[dict[str, Any]]:
    text = (run_dir / "events.jsonl").read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_event_is_written_as_its_golden_line(name: str, tmp_path: Path) -> None:
    with time_machine.travel(AT, tick=False):
        EventWriter(tmp_path, rank=3).write(EXAMPLES[name])
    assert (tmp_path / "events.jsonl").read_text() == (GOLDEN / f"{name}.json").read_text()


def test_each_kind_of_event_has_an_example() -> None:
    kinds = {kind.model_fields["event"].default for kind in RunEvent.__subclasses__()}
    assert {event.event for event in EXAMPLES.values()} == kinds


def test_events_are_lines_in_a_file_and_on_stdout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events = EventWriter(tmp_path, rank=3)
    events.write(Started(start_step=0, total_steps=4))
    events.write(StepDone(step=1, loss=1.5))
    assert [(e["event"], e["seq"], e["rank"]) for e in lines(tmp_path)] == [("started", 0, 3), ("step", 1, 3)]
    printed = [line.removeprefix("SFT_EVENT ") for line in capfd.readouterr().out.splitlines()]
    assert [json.loads(line) for line in printed] == lines(tmp_path)


SCRIPT = """
import sys
from pathlib import Path
from trainer.event_writer import EventWriter
from trainer.events import Failed
sys.stdout.write("before")
EventWriter(Path(sys.argv[1]), 0).write(Failed(message=sys.argv[2]))
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_line_and_its_end_are_one_write(tmp_path: Path, unbuffered: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # it keeps writes apart
    with ours, theirs:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), "x" * 9000]
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        with subprocess.Popen(command, stdout=theirs, env=environment, cwd=PROJECT):
            theirs.close()
            before, *written = iter(lambda: ours.recv(1 << 16), b"")
    assert before == b"before"
    assert len(written) == 3
    assert all(one.startswith(b"SFT_EVENT_PART 0.0@") and one.find(b"\n") == len(one) - 1 for one in written)


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    EventWriter(tmp_path, 0).write(StepDone(step=1, loss=float("nan"), grad_norm=float("inf")))
    assert (lines(tmp_path)[0]["loss"], lines(tmp_path)[0]["grad_norm"]) == (None, None)


def test_a_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    EventWriter(tmp_path, 0).end(Failed(message=os.fsdecode(b"a name \xff of Linux")))
    assert json.loads((tmp_path / "end.json").read_text())["message"] == "a name ? of Linux"


def test_the_first_end_marker_stays(tmp_path: Path) -> None:
    EventWriter(tmp_path, 1).end(Failed(code="oom"))
    EventWriter(tmp_path, 0).end(Finished(step=4))
    assert json.loads((tmp_path / "end.json").read_text())["event"] == "failed"
    assert [event["event"] for event in lines(tmp_path)] == ["failed", "finished"]
    assert {path.name for path in tmp_path.iterdir()} == {"events.jsonl", "end.json"}


def test_a_stop_request_is_a_file_with_a_reason(tmp_path: Path) -> None:
    events = EventWriter(tmp_path, 0)
    assert events.stop_reason() is None
    (tmp_path / "stop").touch()
    assert events.stop_reason() == "asked to stop"
    (tmp_path / "stop").write_text("paused by anna\n")
    assert events.stop_reason() == "paused by anna"
