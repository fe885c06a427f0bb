"""Codes of observations, and the record of a run's end."""

import json
from pathlib import Path

from sqlalchemy import text

from tests.support.callers import ANNA
from worker.backends.interface import Handle
from worker.backends.local.backend import LocalBackend
from worker.db.session import writing
from worker.jobs import create, queries
from worker.planning.spec import JobSpec
from worker.runs.observation import ExitRecord, ObservationCode, Phase
from worker.runs.run import run_name, split_run_name


def test_a_code_that_a_run_has_invented_is_unreadable(tmp_path: Path) -> None:
    directory = tmp_path / "jobs" / "job-1" / "attempts" / "1"
    directory.mkdir(parents=True)
    (directory / "pid.json").write_text('{"pid": 1, "start_ticks": 1}')
    (directory / "exit.json").write_text(json.dumps({"reason": "succeeded!", "message": "Believe me."}))
    backend = LocalBackend(tmp_path, Path("python"), 1, {}, "local")
    seen = backend.poll([Handle("job-1.1", "job-1.1", directory)])["job-1.1"]
    assert (seen.phase, seen.code, seen.message) == (Phase.ENDED, ObservationCode.UNREADABLE, "Believe me.")


def test_an_exit_record_of_version_0_1_is_read(database: str, spec: JobSpec) -> None:
    job_id = create.create(spec, ANNA).job_id
    stored = '{"code": "time_limit", "message": "Over.", "raw": "{}", "at": "2026-01-02T03:04:05.678+00:00"}'
    with writing() as session:
        session.execute(
            text("UPDATE attempt SET exit = :exit WHERE job_id = :id"), {"exit": stored, "id": job_id}
        )
    found = queries.attempt_of(queries.get(job_id)).exit
    assert found == ExitRecord.model_validate_json(stored)
    assert found.code is ObservationCode.TIME_LIMIT


def test_a_run_name_has_its_parts_back() -> None:
    assert split_run_name(run_name("job-0a.b", 12)) == ("job-0a.b", 12)
