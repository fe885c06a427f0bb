"""The event lines and the end marker."""

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.events import EventWriter


def lines(run_dir: Path) -> list[dict[str, Any]]:
    text = (run_dir / "events.jsonl").read_text()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_events_are_lines_in_a_file_and_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = EventWriter(tmp_path, rank=3)
    events.write("started", start_step=0)
    events.write("step", step=1, loss=1.5)
    assert [(e["event"], e["seq"], e["rank"]) for e in lines(tmp_path)] == [("started", 0, 3), ("step", 1, 3)]
    printed = [line.removeprefix("SFT_EVENT ") for line in capsys.readouterr().out.splitlines()]
    assert [json.loads(line) for line in printed] == lines(tmp_path)


def test_a_number_that_is_not_finite_is_null(tmp_path: Path) -> None:
    EventWriter(tmp_path, 0).write("step", step=1, loss=float("nan"), grad_norm=float("inf"))
    assert (lines(tmp_path)[0]["loss"], lines(tmp_path)[0]["grad_norm"]) == (None, None)


def test_the_first_end_marker_stays(tmp_path: Path) -> None:
    EventWriter(tmp_path, 1).end("failed", code="oom")
    EventWriter(tmp_path, 0).end("finished", step=4)
    assert json.loads((tmp_path / "end.json").read_text())["event"] == "failed"
    assert [event["event"] for event in lines(tmp_path)] == ["failed", "finished"]
    assert {path.name for path in tmp_path.iterdir()} == {"events.jsonl", "end.json"}


def test_a_wish_to_stop_is_a_file_with_a_reason(tmp_path: Path) -> None:
    events = EventWriter(tmp_path, 0)
    assert events.stop_wished() is None
    (tmp_path / "stop").touch()
    assert events.stop_wished() == "asked to stop"
    (tmp_path / "stop").write_text("paused by anna\n")
    assert events.stop_wished() == "paused by anna"
