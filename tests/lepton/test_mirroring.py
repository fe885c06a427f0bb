"""The mirror of a run's log and of its events."""

import fcntl
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.lepton.bare import Bare, bare
from tests.support.lepton.server.server import LeptonServer
from tests.support.process import forget_settings
from trainer.event_writer import EventWriter
from trainer.events import CheckpointSaved, Finished, StepDone
from worker.backends.lepton import log_events, log_mirror
from worker.backends.lepton.log_mirror import HOLD_NS, PAGE_LINES

FIRST, SECOND = "job-1-1-0", "job-1-1-1"


def saved(path: str) -> CheckpointSaved:
    """A checkpoint event as long as its path."""
    return CheckpointSaved(iteration=1, path=path, bytes=0, files=[])


@pytest.fixture
def on(lepton: LeptonServer, tmp_path: Path) -> Bare:
    found = bare(lepton, tmp_path, settle_seconds=0)
    found.submitted(shown="Running", nodes=2)
    return found


def say(on: Bare, *texts: str, replica: str = FIRST, at_ns: int | None = None) -> None:
    for text in texts:
        on.on_lepton().logs.add(replica, text.encode(), at_ns=at_ns)


def event(rank: int, seq: int, **more: Any) -> str:
    fields = {"event": "step", "rank": rank, "seq": seq, "at": "2026-01-01T00:00:00+00:00", **more}
    return "SFT_EVENT " + json.dumps(fields)


def known(on: Bare) -> list[tuple[int, int]]:
    """Return rank and sequence number of all mirrored events."""
    return [(one["rank"], one["seq"]) for one in on.events()]


# -- lines -----------------------------------------------------------------------------------------


def test_lines_of_all_replicas_are_sorted_by_time(on: Bare) -> None:
    now = time.time_ns()
    for number in range(0, 100, 2):
        say(on, f"line {number}", replica=FIRST, at_ns=now + number)
    for number in range(1, 100, 2):
        say(on, f"line {number}", replica=SECOND, at_ns=now + number)
    assert on.collect()
    assert on.log() == [f"line {number}" for number in range(100)]


@pytest.mark.parametrize("step_ns", [1000, 0], ids=["one by one", "at the same time"])
def test_a_history_of_more_than_two_pages(on: Bare, step_ns: int) -> None:
    now, lines = time.time_ns(), [f"line {number}" for number in range(2 * PAGE_LINES + 500)]
    for number, text in enumerate(lines):
        say(on, text, at_ns=now + number * step_ns)
    assert on.collect()
    assert on.log() == lines
    assert on.collect()
    assert on.log() == lines


def test_a_call_mirrors_a_part_of_a_long_history(on: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_mirror, "PAGE_LINES", 2)
    monkeypatch.setattr(log_mirror, "MAX_PAGES", 2)
    now = time.time_ns()
    for number in range(5):
        say(on, f"line {number}", at_ns=now + number)
    assert not on.collect()
    assert 0 < len(on.log()) < 5
    assert any(on.collect() for _ in range(5))
    assert on.log() == [f"line {number}" for number in range(5)]


def test_parts_without_their_rest_are_not_kept_without_end(on: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_events, "MAX_PARTS", 3)
    say(on, *(f"SFT_EVENT_PART n{number} 1/2 x" for number in range(9)))
    say(on, f"SFT_EVENT_PART n {'9' * 5000}/2 x", event(0, 1))
    assert on.collect()
    assert known(on) == [(0, 1)]
    state = json.loads((on.directory() / log_mirror.STATE).read_text())
    assert sorted(state["parts"]) == ["n6", "n7", "n8"]


def test_parts_are_limited_in_size_and_to_one_a_line(on: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_events, "MAX_PARTS_CHARACTERS", 10)
    say(on, *(f"SFT_EVENT_PART n{number} 1/2 xxxx" for number in range(4)))
    say(on, "SFT_EVENT_PART m0 1/2 SFT_EVENT_PART m1 1/2 SFT_EVENT_PART m2 1/2 "[:40])
    assert on.collect()
    state = json.loads((on.directory() / log_mirror.STATE).read_text())
    assert {name: list(parts) for name, parts in state["parts"].items()} == {"m0": ["1"]}


def test_a_call_mirrors_so_many_characters(on: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_mirror, "PAGE_LINES", 2)
    monkeypatch.setattr(log_mirror, "MAX_CALL_CHARACTERS", 5)
    now = time.time_ns()
    for number in range(5):
        say(on, f"line {number}", at_ns=now + number)
    assert not on.collect()
    assert on.log() == ["line 0", "line 1"]


def test_few_lines_are_remembered(on: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_mirror, "PAGE_LINES", 4)
    monkeypatch.setattr(log_mirror, "MAX_RECENT", 5, raising=False)
    now = time.time_ns()
    for number in range(20):
        say(on, f"line {number}", at_ns=now + number)
    assert on.collect()
    assert on.log() == [f"line {number}" for number in range(20)]
    assert len(json.loads((on.directory() / log_mirror.STATE).read_text())["recent"]) <= 5


def test_a_log_without_end_is_kept_to_a_limit_and_says_so(on: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_mirror, "MAX_LOG_BYTES", 10)
    for text in ("one two", "three", "four", event(0, 0)):
        say(on, text)
        on.collect()
    assert on.log() == ["one two", "th", log_mirror.LOG_IS_FULL.strip()]
    assert known(on) == [(0, 0)]


def test_a_worker_killed_while_appending_leaves_no_gap_and_no_repeat(on: Bare) -> None:
    earlier = time.time_ns() - 10 * HOLD_NS
    say(on, "a", "b", event(0, 0), at_ns=earlier)
    on.collect(is_over=False)
    log, events = on.directory() / "logs" / "job.log", on.directory() / "events.jsonl"
    before = log.read_text()
    say(on, "c", event(0, 1), at_ns=earlier + 1)
    on.collect(is_over=False)
    # The append is recorded in mirror.json; one file has nothing of it yet, the other half a line.
    log.write_text(before)
    events.write_text(events.read_text()[:-20])
    say(on, "d")
    assert on.collect()
    assert [line for line in on.log() if len(line) == 1] == ["a", "b", "c", "d"]
    assert known(on) == [(0, 0), (0, 1)]


def test_a_locked_mirror_does_not_block_a_thread(on: Bare) -> None:
    say(on, "a")
    assert on.collect()
    say(on, "b")
    with (on.directory() / ".lock").open("w") as lock, ThreadPoolExecutor() as threads:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            assert not threads.submit(on.collect).result(timeout=60)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
        assert on.log() == ["a"]
    assert on.collect()
    assert on.log() == ["a", "b"]


# -- events ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        f"{event(0, 0)}{event(1, 0)}",
        f"Loading:  50%|###  {event(0, 0)} ok {event(1, 0)} done",
        f"SFT_EVENT {{cut off{event(0, 0)}{event(1, 0)}",
        f"SFT_EVENT 5 SFT_EVENT [] SFT_EVENT {{}}{event(0, 0)}{event(1, 0, text='SFT_EVENT {}')}",
    ],
)
def test_all_events_of_a_line_are_mirrored(on: Bare, line: str) -> None:
    say(on, line)
    assert on.collect()
    assert known(on) == [(0, 0), (1, 0)]


def test_an_event_in_parts_is_joined_despite_other_output(
    on: Bare, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for rank in (0, 1):
        EventWriter(tmp_path, rank).write(saved("SFT_EVENT {} é" * 700))
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 8
    half = len(lines) // 2
    parts = [one for pair in zip(lines[:half], lines[half:], strict=True) for one in pair]
    say(on, *(f"50% {part} and more{event(2, number)}" for number, part in enumerate(parts)))
    assert on.collect()
    assert {(0, 0), (1, 0)} <= set(known(on))
    assert [one["path"] for one in on.events() if one["rank"] < 2] == ["SFT_EVENT {} é" * 700] * 2
    assert {(2, number) for number in range(8)} <= set(known(on))


def test_parts_of_an_event_may_arrive_in_several_polls(
    on: Bare, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    EventWriter(tmp_path, 0).write(saved("x" * 9000))
    for line in capfd.readouterr().out.splitlines():
        assert known(on) == []
        say(on, line)
        on.collect()
    assert known(on) == [(0, 0)]


def test_late_events_are_searched_page_by_page(on: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_mirror, "PAGE_LINES", 4)
    monkeypatch.setattr(log_mirror, "MAX_PAGES", 3)
    monkeypatch.setattr(log_mirror, "RECENT_BYTES", 200)
    begin = time.time_ns() - 2 * log_mirror.LOOKBACK_NS
    for number in range(0, 30, 2):
        say(on, event(0, number), at_ns=begin + number)
    say(on, "later", at_ns=time.time_ns() - 2 * HOLD_NS)
    while "later" not in (on.log() if (on.directory() / "logs/job.log").exists() else []):
        on.collect(is_over=False)
    for number in (9, 21):
        say(on, event(0, number), at_ns=begin + number)
    assert [on.collect() for _ in range(3)] == [False, False, True]
    assert known(on) == [*((0, number) for number in range(0, 30, 2)), (0, 9), (0, 21)]


def test_beyond_the_limit_of_bytes_events_that_decide_are_mirrored(
    on: Bare, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SFT_MAX_EVENT_BYTES_PER_ATTEMPT", str(1 << 20))
    forget_settings()
    say(on, event(0, 0, text="x" * (1 << 20)), event(0, 1), event(0, 2, event="checkpoint"), event(0, 3))
    say(on, event(0, 4, event="finished", step=1))
    assert on.collect()
    assert known(on) == [(0, 0), (0, 2), (0, 4)]
    assert json.loads((on.directory() / "end.json").read_text())["seq"] == 4


# -- the end ---------------------------------------------------------------------------------------


def end(on: Bare, state: str) -> None:
    """End the run and observe it; its end event is not in the log yet."""
    say(on, event(0, 0))
    on.on_lepton().shown = state
    on.seen(1)


def test_the_mirror_waits_for_the_end_event_of_a_completed_run(on: Bare) -> None:
    end(on, "Completed")
    assert not on.collect()
    say(on, event(0, 1, event="finished", step=1))
    assert on.collect()
    assert known(on) == [(0, 0), (0, 1)]
    assert (on.directory() / "end.json").exists()


def test_a_failed_run_may_have_no_end_event(on: Bare) -> None:
    end(on, "Failed")
    assert on.collect()
    assert not (on.directory() / "end.json").exists()


@pytest.mark.parametrize("state", ["Completed", "Failed"])
def test_missing_events_are_read_from_the_storage(lepton: LeptonServer, tmp_path: Path, state: str) -> None:
    on = bare(lepton, tmp_path, settle_seconds=0, local_mount=str(lepton.storage / "team"))
    on.submitted(shown="Running")
    storage = lepton.storage / "team" / "sft" / "jobs" / "job-1" / "attempts" / "1"
    storage.mkdir(parents=True)
    events = EventWriter(storage, 0)
    first = events.write(StepDone(step=1))
    say(on, f"SFT_EVENT {json.dumps(first)}")
    on.on_lepton().shown = state
    on.seen(1)
    events.write(saved("short"))
    events.end(Finished(step=1, iteration=1))
    assert on.collect()
    assert known(on) == [(0, 0), (0, 1), (0, 2)]
    assert json.loads((on.directory() / "end.json").read_text())["event"] == "finished"
