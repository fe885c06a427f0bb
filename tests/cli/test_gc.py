"""`sft gc` on a service's directory: it shows expired data, and removes it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.support.inputs import make_inputs
from tests.support.process import forget_settings
from tests.support.service import Service
from tests.support.waiting import wait_until
from tests.worker.conftest import job_in, spec  # noqa: F401
from worker.auth import audit
from worker.auth.audit import AuditFilter
from worker.clock import utcnow
from worker.db.models import AuditEntry, Job
from worker.db.session import writing
from worker.errors import NotFound
from worker.jobs import queries
from worker.states import JobState

JobIn = Callable[..., Job]


def gc(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["gc", *arguments], env={"COLUMNS": "120"})
    return done.exit_code, done.output


@pytest.fixture
def expired(job_in: JobIn, environment: pytest.MonkeyPatch, data_dir: Path) -> Job:  # noqa: F811
    """Return an expired job with a directory of 1500 bytes."""
    environment.setenv("SFT_KEEP_JOBS_DAYS", "30")
    forget_settings()
    job = job_in(JobState.FAILED, finished_at=utcnow() - timedelta(days=31))
    (data_dir / "jobs" / job.id / "file").write_bytes(b"x" * 1500)
    return job


def test_a_dry_run_only_shows_expired_data(expired: Job, data_dir: Path) -> None:
    code, output = gc("--dry-run", "--data-dir", str(data_dir))
    assert code == 0
    for shown in (
        "Would be removed",
        expired.id,
        "FAILED",
        f"{expired.finished_at:%Y-%m-%d %H:%M}",
        "1.5 kB",
    ):
        assert shown in output
    assert "1 jobs" in output
    assert queries.get(expired.id)
    assert (data_dir / "jobs" / expired.id / "file").exists()


def test_gc_removes_expired_data_and_shows_it(expired: Job, data_dir: Path) -> None:
    code, output = gc("--data-dir", str(data_dir))
    assert (code, expired.id in output, "Would" in output) == (0, True, False)
    assert not (data_dir / "jobs" / expired.id).exists()
    with pytest.raises(NotFound):
        queries.get(expired.id)
    code, output = gc("--data-dir", str(data_dir))
    assert (code, expired.id in output) == (0, False)
    found, _ = audit.page(AuditFilter(target=expired.id), None, 10)
    assert [(one.actor, one.action, one.address) for one in found] == [
        ("service", "job.remove", None),
        ("anna", "job.create", None),
    ]


def test_gc_removes_expired_entries_of_the_audit_log(database: str, data_dir: Path) -> None:
    with writing() as session:
        at = utcnow() - timedelta(days=401)
        session.add(AuditEntry(action="key.create", outcome="ok", actor="anna", at=at))
    for arguments, number in ((["--dry-run"], 1), ([], 1), ([], 0)):
        code, output = gc(*arguments, "--data-dir", str(data_dir))
        assert (code, f"Audit entries: {number}" in output) == (0, True)


def test_gc_reports_that_everything_is_kept(job_in: JobIn, data_dir: Path) -> None:  # noqa: F811
    job_in(JobState.FAILED, finished_at=utcnow() - timedelta(days=3000))
    code, output = gc("--data-dir", str(data_dir))
    assert code == 0
    assert "0 jobs" in output
    assert "kept indefinitely" in output


def test_a_missing_directory_is_named(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code, output = gc("--data-dir", str(tmp_path / "none"))
    assert code == 1
    assert str(tmp_path / "none") in output.replace("\n", "")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_the_service_removes_expired_data_by_itself(data_dir: Path, stand_in: Path) -> None:
    quick = {"SFT_KEEP_LOGS_DAYS": "0.00001", "SFT_RETENTION_INTERVAL_SECONDS": "0.5"}
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), **quick) as service:
        job = service.wait_for(service.submit(make_inputs(data_dir))["id"])
        logs = f"/v1/jobs/{job['id']}/logs"
        wait_until(lambda: service.client.get(logs).status_code == 410, what="the logs' end")
        problem = service.client.get(logs, params={"tail": 10}).json()
        assert (problem["code"], "SFT_KEEP_LOGS_DAYS" in problem["hint"]) == ("gone", True)
        assert service.job(job["id"])["state"] == "SUCCEEDED"
    wait_until(lambda: not (data_dir / "jobs" / job["id"] / "attempts/1/logs").exists())
    assert list((data_dir / "jobs" / job["id"] / "checkpoints").iterdir())
