"""The lines of a run reach the database once, whatever they contain."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from tests.support.callers import ANNA
from tests.support.concurrency import at_once
from tests.support.process import forget_settings
from tests.support.run_files import AT, directory_of, line, save, step, steps, write
from worker.db.models import Attempt, Job
from worker.db.session import engine, writing
from worker.jobs import actions, queries
from worker.lifecycle import ingest, stored_events
from worker.runs.observation import ExitRecord, ObservationCode
from worker.states import JobState
from worker.telemetry import metrics

EXITED = ExitRecord(code=ObservationCode.EXITED, message="It ended.")

JobIn = Callable[..., Job]
STARTED = {"event": "started", "start_step": 0, "total_steps": 4}


def end(job: Job, marker: Any) -> None:
    """The run is over: its marker is on disk, and the backend has observed it."""
    (directory_of(job) / "end.json").write_text(marker if isinstance(marker, str) else json.dumps(marker))
    with writing() as session:
        session.get_one(Attempt, (job.id, 1)).exit = EXITED


def test_lines_become_metrics_progress_and_state(job_in: JobIn) -> None:
    job = job_in(JobState.STARTING)
    write(job, line(**STARTED) + step(1) + step(2) + line(3, event="validation", step=2, loss=7.5))
    ingest.ingest(job.id)
    now = queries.get(job.id)
    assert steps(job) == [(1, 8.0), (2, 7.0)]
    assert now.state is JobState.RUNNING
    expected = {"step": 2, "total_steps": 4, "loss": 7.0, "validation_loss": 7.5, "eta_seconds": 2.0}
    assert {key: now.progress[key] for key in expected} == expected


def test_each_line_is_ingested_once_by_many_workers(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    write(job, line(**STARTED) + b"".join(step(n) for n in range(1, 5)) + save(job, 4))
    answers = at_once(6, lambda: ingest.ingest(job.id))
    assert set(answers) <= {True, False}  # none is an exception
    ingest.ingest(job.id)
    assert len(steps(job)) == 4
    kinds = [event.type for event in queries.events(job.id, 0, 100)]
    assert kinds.count("trainer.started") == kinds.count("checkpoint") == 1


def test_a_checkpoint_alone_is_a_change_that_clients_see(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    write(job, save(job, 2))
    ingest.ingest(job.id)
    assert queries.get(job.id).version > job.version


def test_half_a_line_waits_for_its_other_half(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    complete = step(1)
    write(job, complete[:20])
    ingest.ingest(job.id)
    assert steps(job) == []
    write(job, complete[20:])
    ingest.ingest(job.id)
    assert steps(job) == [(1, 8.0)]


def test_a_line_longer_than_a_chunk_is_ingested(job_in: JobIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "CHUNK_BYTES", 64)
    job = job_in(JobState.RUNNING)
    write(job, step(1, note="x" * 1000) + step(2))
    ingest.ingest(job.id)
    assert [number for number, _ in steps(job)] == [1, 2]


def test_an_endless_line_is_skipped(job_in: JobIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "CHUNK_BYTES", 64)
    monkeypatch.setattr(ingest, "MAX_LINE_BYTES", 256)
    job = job_in(JobState.RUNNING)
    write(job, b"x" * 1000)
    ingest.ingest(job.id)
    write(job, b"\n" + step(1))
    ingest.ingest(job.id)
    assert [number for number, _ in steps(job)] == [1]


@pytest.mark.parametrize(
    "bad",
    [b"no json\n", b"[]\n", b"7\n", b'{"event": "step"}\n', b"\xff\xfe\n", b"\n", b'"\\ud800"\n',
     line(event="step", step="many"), line(event="step"), line(event="checkpoint", iteration=3),
     line(event="started"), line(event=["step"]), line(event="something-new"), line(event="step", step=-1),
     line(event="step", step=2**31), line(event="step", step=True), line(event="step", step=9, loss="x"),
     line(event="step", step=9, rank=10**30), b"[" * 100_000 + b"\n", b'{"event": "step", "step": 9}\n',
     line(event="step", step=9, at="yesterday"), line(event="step", step=9, at="2026-01-01T00:00:00"),
     line(event="step", step=9, at="9999-12-31T23:59:59-23:00"),
     line(event="finished", step=9, iteration=10**30),
     line(event="checkpoint", iteration=3, path="/x", bytes=1, files=[{"path": 7}]),
     line(event="checkpoint", iteration=3, path="/x", bytes=2**63, files=[]),
     *(line(event="checkpoint", iteration=3, path="/x", bytes=1, files=[{"path": path, "bytes": 1}])
       for path in ("../x", "/etc/x", "a//b", "./x", "a\nb", "n" * 300))],
)  # fmt: skip
def test_a_bad_line_hides_no_good_one(job_in: JobIn, bad: bytes) -> None:
    job = job_in(JobState.RUNNING)
    write(job, step(1) + bad + step(2))
    ingest.ingest(job.id)
    assert [number for number, _ in steps(job)] == [1, 2]


def test_what_no_database_holds_is_stored_all_the_same(job_in: JobIn) -> None:
    job = job_in(JobState.FINALIZING)
    write(job, step(1).replace(b"8.0", b"NaN") + step(2).replace(b"7.0", b"1e999"))
    message = "bad \0 and \ud800 text"
    write(job, line(3, event="failed", code="user_code", message=message))
    marker = {"event": "failed", "at": AT.format(9), "code": "user_code", "message": message}
    end(job, {**marker, "traceback": message})
    ingest.ingest(job.id)
    now = queries.get(job.id)
    assert steps(job) == [(1, None), (2, None)]
    assert (now.state, now.reason_message) == (JobState.FAILED, "bad \ufffd and ? text")


def test_a_failure_is_searched_at_the_end_of_each_log(job_in: JobIn) -> None:
    job = job_in(JobState.FINALIZING)
    early, decisive = (
        b"RuntimeError: CUDA error: out of memory\n",
        b"OSError: [Errno 28] No space left on device",
    )
    log = early + b"x" * 99 + b"\n" * (300 << 10) + decisive + b"\nthe end\n"
    (directory_of(job) / "logs").mkdir()
    (directory_of(job) / "logs" / "rank-0.log").write_bytes(log)
    end(job, "")
    ingest.ingest(job.id)
    failure = queries.get(job.id).failure
    assert failure is not None
    assert (failure["class"], failure["suggestion"]) == ("disk_full", None)
    evidence = failure["evidence"]
    assert log[evidence["offset"] :][: evidence["limit"]] == decisive
    assert evidence["line"] == decisive.decode()
    assert queries.attempts(job.id)[0].failure == failure


def test_success_needs_the_end_marker_and_a_complete_checkpoint(job_in: JobIn) -> None:
    job = job_in(JobState.FINALIZING)
    write(job, line(**STARTED) + save(job, 4))
    end(job, {"event": "finished", "at": AT.format(9), "step": 4, "iteration": 4})
    ingest.ingest(job.id)
    assert queries.get(job.id).state is JobState.SUCCEEDED
    assert queries.attempts(job.id)[0].outcome == "SUCCEEDED"


@pytest.mark.parametrize("content", [b"short", b"far too long for it"])
def test_a_checkpoint_of_another_size_is_no_success(job_in: JobIn, content: bytes) -> None:
    job = job_in(JobState.FINALIZING)
    write(job, save(job, 4, content))
    end(job, {"event": "finished", "at": AT.format(9), "step": 4, "iteration": 4})
    ingest.ingest(job.id)
    failure = queries.get(job.id).failure
    assert failure is not None
    assert failure["class"] == "bad_checkpoint"


def test_a_final_checkpoint_elsewhere_is_no_success(job_in: JobIn, tmp_path: Path) -> None:
    job = job_in(JobState.FINALIZING)
    write(job, save(job, 4, into=tmp_path))
    assert finished(job).state is JobState.FAILED


def test_a_final_checkpoint_behind_a_link_counts_as_reported(
    job_in: JobIn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_in(JobState.FINALIZING)
    saved = save(job, 4, into=tmp_path)
    directory = Path(job.config["checkpoint"]["save"])
    directory.mkdir()
    (directory / "iter_0000004").symlink_to(tmp_path / "iter_0000004")
    write(job, saved.replace(str(tmp_path).encode(), str(directory).encode()))
    assert finished(job).state is JobState.SUCCEEDED
    assert "job.checkpoint_not_served" in capsys.readouterr().out


def test_a_final_checkpoint_that_is_gone_is_no_success(job_in: JobIn) -> None:
    job = job_in(JobState.FINALIZING)
    write(job, save(job, 4))
    (Path(job.config["checkpoint"]["save"]) / "iter_0000004" / "weights").unlink()
    assert finished(job).state is JobState.FAILED


def test_a_final_checkpoint_counts_where_its_root_is_gone(job_in: JobIn, tmp_path: Path) -> None:
    job = job_in(JobState.FINALIZING, config={"checkpoint": {"save": str(tmp_path / "former")}})
    write(job, save(job, 4))
    assert finished(job).state is JobState.SUCCEEDED


def finished(job: Job) -> Job:
    end(job, {"event": "finished", "at": AT.format(9), "step": 4, "iteration": 4})
    ingest.ingest(job.id)
    return queries.get(job.id)


@pytest.mark.parametrize(
    ("index", "state"),
    [
        ({"weight_map": {"a": "one.safetensors"}}, JobState.SUCCEEDED),
        ({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}, JobState.FAILED),
        ({"weight_map": {"a": ["one.safetensors"]}}, JobState.FAILED),
        ([], JobState.FAILED),
    ],
)
def test_a_child_reads_the_index_of_an_export(job_in: JobIn, index: Any, state: JobState) -> None:
    job = job_in(JobState.FINALIZING)
    write(job, save_export(job, json.dumps(index).encode()))
    before = parsed_by_children()
    assert finished(job).state is state
    assert parsed_by_children() == before + 1


def save_export(job: Job, index: bytes) -> bytes:
    """Write an export of one weight file, and return the event line that reports it."""
    path = Path(job.config["checkpoint"]["save"]) / "hf"
    path.mkdir(parents=True)
    contents = {"config.json": b"{}", "one.safetensors": b"x", "model.safetensors.index.json": index}
    for name, content in contents.items():
        (path / name).write_bytes(content)
    files = [{"path": name, "bytes": len(content)} for name, content in contents.items()]
    fields = {"iteration": 4, "path": str(path), "bytes": 9, "files": files, "format": "huggingface"}
    return line(5, event="checkpoint", **fields)


def parsed_by_children() -> float:
    return sum(metrics.INSPECTIONS.labels("export", how)._value.get() for how in ("done", "reused"))


@pytest.mark.parametrize(
    "marker",
    ["", "{", "[]", "null", '{"event": "step", "step": 3}', '{"event": "finished", "iteration": [1]}',
     f'{{"event": "finished", "step": 1, "at": "{AT.format(1)}", "iteration": {10**30}}}', "[" * 100_000],
)  # fmt: skip
def test_a_broken_end_marker_is_none(job_in: JobIn, marker: str) -> None:
    job = job_in(JobState.FINALIZING)
    end(job, marker)
    ingest.ingest(job.id)
    assert queries.get(job.id).state is JobState.FAILED


def test_the_last_lines_are_in_before_the_end_is_decided(job_in: JobIn) -> None:
    job = job_in(JobState.FINALIZING)
    write(job, line(**STARTED) + b"".join(step(n) for n in range(1, 5)) + save(job, 4))
    end(job, {"event": "finished", "at": AT.format(9), "step": 4, "iteration": 4})
    at_once(6, lambda: ingest.ingest(job.id))
    now = queries.get(job.id)
    assert (now.state, now.progress["step"]) == (JobState.SUCCEEDED, 4)
    assert [e.data["to"] for e in queries.events(job.id, 0, 100) if e.type == "state"] == ["SUCCEEDED"]


# -- runs that write without end -----------------------------------------------------------------------


def test_a_task_ingests_a_part_of_a_run(job_in: JobIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "CHUNK_BYTES", len(step(1)))
    monkeypatch.setattr(ingest, "TASK_BYTES", 2 * len(step(1)))
    job = job_in(JobState.FINALIZING)
    write(job, b"".join(step(n) for n in range(1, 6)))
    end(job, "")
    for expected in (2, 4):
        assert ingest.ingest(job.id)
        assert (len(steps(job)), queries.get(job.id).state) == (expected, JobState.FINALIZING)
    assert not ingest.ingest(job.id)
    assert (len(steps(job)), queries.get(job.id).state) == (5, JobState.FAILED)


def test_lines_behind_a_long_one_are_not_ingested_with_it(
    job_in: JobIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "CHUNK_BYTES", 128)
    monkeypatch.setattr(ingest, "TASK_BYTES", 1)
    job = job_in(JobState.RUNNING)
    write(job, step(1, note="x" * 600) + step(2) + step(3))
    assert ingest.ingest(job.id)
    assert [number for number, _ in steps(job)] == [1]


def test_a_chunk_is_stored_in_few_statements(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    write(job, line(**STARTED) * 200 + b"".join(step(n) + save(job, n) for n in range(1, 100)))
    assert (directory_of(job) / "events.jsonl").stat().st_size < ingest.CHUNK_BYTES
    statements = count_statements(lambda: ingest.ingest(job.id))
    assert len(steps(job)) == len(queries.checkpoints(job.id)) == 99
    assert len(queries.events(job.id, 0, 1000)) == 1 + 200 + 99
    assert statements < 20


def count_statements(call: Callable[[], Any]) -> int:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    sqlalchemy.event.listen(engine(), "before_cursor_execute", note)
    try:
        call()
    finally:
        sqlalchemy.event.remove(engine(), "before_cursor_execute", note)
    return len(statements)


def test_the_last_of_equal_events_counts(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    write(job, step(1) + step(1, loss=3.0) + save(job, 2) + save(job, 2, b"y" * 10))
    ingest.ingest(job.id)
    write(job, step(1, loss=2.0))
    ingest.ingest(job.id)
    assert steps(job) == [(1, 2.0)]
    assert len(queries.checkpoints(job.id)) == 1


def test_events_beyond_the_limit_are_dropped(job_in: JobIn, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SFT_MAX_EVENTS_PER_ATTEMPT", "1000")
    forget_settings()
    job = job_in(JobState.FINALIZING)
    write(job, line(**STARTED) + b"".join(step(n) for n in range(1, 1011)))
    write(job, b"".join(line(event="stopping", step=n) for n in range(1, 211)) + save(job, 4))
    end(job, {"event": "finished", "at": AT.format(9), "step": 4, "iteration": 4})
    ingest.ingest(job.id)
    now, events = queries.get(job.id), queries.events(job.id, 0, 1000)
    assert (now.state, now.progress["step"]) == (JobState.SUCCEEDED, 1010)
    assert [one.iteration for one in queries.checkpoints(job.id)] == [4]
    kinds = [event.type for event in events]
    assert (kinds.count("trainer.stopping"), kinds.count("events_dropped")) == (101, 1)
    attempt = queries.attempts(job.id)[0]
    assert (attempt.events_stored, attempt.events_dropped) == (1101, 121)


def test_the_newest_checkpoints_are_stored(job_in: JobIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_events, "MAX_CHECKPOINTS", 2)
    job = job_in(JobState.RUNNING)
    for iterations in ((1, 2, 3), (4,)):
        write(job, b"".join(save(job, number) for number in iterations))
        ingest.ingest(job.id)
    assert [one.iteration for one in queries.checkpoints(job.id)] == [3, 4]


def full(job: Job, environment: pytest.MonkeyPatch) -> None:
    """Write as many bytes of events as are read."""
    environment.setenv("SFT_MAX_EVENT_BYTES_PER_ATTEMPT", str(1 << 20))
    forget_settings()
    write(job, step(1, note="x" * (1 << 20)))
    ingest.ingest(job.id)


def test_a_file_of_events_is_read_to_its_limit(job_in: JobIn, environment: pytest.MonkeyPatch) -> None:
    job = job_in(JobState.FINALIZING)
    full(job, environment)
    write(job, step(2))
    end(job, "")
    assert not ingest.ingest(job.id)
    assert (len(steps(job)), queries.get(job.id).state) == (1, JobState.FAILED)
    assert [one.type for one in queries.events(job.id, 0, 100)].count("events_dropped") == 1


def test_the_final_checkpoint_is_read_behind_the_limit(
    job_in: JobIn, environment: pytest.MonkeyPatch
) -> None:
    job = job_in(JobState.FINALIZING)
    full(job, environment)
    write(
        job, save(job, 2) + save(job, 4) + b'no event with a "checkpoint"\n' + line(event="stopping", step=4)
    )
    assert finished(job).state is JobState.SUCCEEDED
    assert [one.iteration for one in queries.checkpoints(job.id)] == [4]


def test_bad_lines_are_logged_once(job_in: JobIn, capsys: pytest.CaptureFixture[str]) -> None:
    job = job_in(JobState.RUNNING)
    write(job, b"no event\n" * 500)
    ingest.ingest(job.id)
    noted = [line for line in capsys.readouterr().out.splitlines() if "ingest.bad_line" in line]
    assert len(noted) == 1
    assert "500" in noted[0]


def test_a_cancellation_loses_no_lines(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    write(job, line(**STARTED) + step(1))
    actions.cancel(job.id, ANNA)
    ingest.ingest(job.id)
    now = queries.get(job.id)
    assert (now.state, now.progress["step"]) == (JobState.CANCELLING, 1)


def test_nothing_is_read_for_a_job_that_has_ended(job_in: JobIn) -> None:
    job = job_in(JobState.FAILED)
    write(job, step(1))
    ingest.ingest(job.id)
    assert steps(job) == []
