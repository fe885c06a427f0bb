"""Expired jobs, logs and keys are deleted completely; live jobs and files of others stay."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, func, select

from tests.support.callers import ANNA
from tests.support.process import forget_settings
from tests.support.waiting import wait_until
from worker.backends.access.files import FileStat
from worker.backends.access.local_files import LocalFiles
from worker.clock import utcnow
from worker.db.models import Attempt, Checkpoint, Event, IdempotencyKey, Job, Metric
from worker.db.session import reading, writing
from worker.errors import BackendUnavailable, Gone, NotFound, ServiceUnavailable
from worker.jobs import actions, create, logs, queries, transitions
from worker.lifecycle import retention
from worker.planning.spec import JobSpec
from worker.settings import get_settings
from worker.states import LIVE, TERMINAL, JobState

JobIn = Callable[..., Job]
LONG_AGO = utcnow() - timedelta(days=40)


@pytest.fixture
def thirty_days(database: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SFT_KEEP_JOBS_DAYS", "30")
    forget_settings()


@pytest.fixture
def logs_thirty_days(database: str, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SFT_KEEP_LOGS_DAYS", "30")
    forget_settings()


def directory(job: Job) -> Path:
    return get_settings().jobs_dir / job.id


def notes() -> list[Path]:
    return list((get_settings().data_dir / "removals").glob("*.json"))


def furnish(job: Job) -> None:
    """All that can belong to a job."""
    (directory(job) / "attempts/1/logs").mkdir(exist_ok=True)
    (directory(job) / "attempts/1/logs/job.log").write_text("hello\n")
    (directory(job) / "checkpoints").mkdir()
    (directory(job) / "checkpoints/weights").write_bytes(b"w" * 1000)
    with writing() as session:
        session.add(Metric(job_id=job.id, kind="step", step=1, attempt=1, at=utcnow(), data={}))
        saved = {"path": str(directory(job) / "checkpoints"), "bytes": 1000, "files": []}
        session.add(Checkpoint(job_id=job.id, iteration=1, attempt=1, saved_at=utcnow(), **saved))
        key = {"project": job.project, "owner": "anna", "key": job.id, "body_hash": "", "response": {}}
        session.add(IdempotencyKey(job_id=job.id, **key))


def rows(job: Job) -> dict[str, int]:
    with reading() as session:
        counts = {
            table.__name__: session.exec(
                select(func.count()).select_from(table).where(table.job_id == job.id)
            ).one()
            for table in (Attempt, Event, Metric, Checkpoint, IdempotencyKey)
        }
        return counts | {"Job": int(session.get(Job, job.id) is not None)}


def files_below(path: Path) -> list[str]:
    return sorted(str(one.relative_to(path)) for one in path.rglob("*"))


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_job_past_its_time_goes_with_all_that_is_its_own(
    thirty_days: None, job_in: JobIn, state: JobState
) -> None:
    job = job_in(state, finished_at=LONG_AGO)
    furnish(job)
    (removed,) = retention.remove_expired()
    assert (removed.job_id, removed.state, removed.bytes) == (job.id, state, 1006)
    assert set(rows(job).values()) == {0}
    assert not directory(job).exists()
    assert not notes()
    with pytest.raises(NotFound):
        queries.get(job.id)
    assert retention.remove_expired() == []


@pytest.mark.parametrize("state", sorted(LIVE))
def test_nothing_of_a_live_job_is_removed(
    thirty_days: None, logs_thirty_days: None, job_in: JobIn, state: JobState
) -> None:
    job = job_in(state, created_at=LONG_AGO, updated_at=LONG_AGO, finished_at=LONG_AGO)
    furnish(job)
    before = rows(job), files_below(directory(job))
    assert retention.remove_expired() == []
    assert (rows(job), files_below(directory(job))) == before


def test_a_job_that_finished_lately_stays(thirty_days: None, job_in: JobIn) -> None:
    job = job_in(JobState.SUCCEEDED, finished_at=utcnow() - timedelta(days=29), created_at=LONG_AGO)
    assert retention.remove_expired() == []
    assert queries.get(job.id)


def test_unless_it_is_told_to_nothing_is_removed(job_in: JobIn) -> None:
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    assert retention.remove_expired() == []
    assert directory(job).exists()


@pytest.mark.parametrize("what", ["jobs", "logs"])
def test_a_job_that_is_retried_meanwhile_survives(
    job_in: JobIn, environment: pytest.MonkeyPatch, what: str
) -> None:
    environment.setenv(f"SFT_KEEP_{what.upper()}_DAYS", "30")
    forget_settings()
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    furnish(job)
    before = files_below(directory(job))
    seen = retention.expired
    environment.setattr(retention, "expired", lambda limit: _then_retry(seen(limit), job))
    assert retention.remove_expired() == []
    assert queries.get(job.id).state is JobState.VALIDATING
    assert rows(job)["Checkpoint"] == 1
    assert files_below(directory(job)) == before
    assert not notes()


def _then_retry(removals: list[retention.Removal], job: Job) -> list[retention.Removal]:
    assert [one.job_id for one in removals] == [job.id]
    actions.retry(job.id, ANNA)
    return removals


def test_a_retry_that_is_being_written_wins(thirty_days: None, job_in: JobIn) -> None:
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    with ThreadPoolExecutor() as threads:
        with writing() as session:
            transitions.move(session, queries.find(session, job.id), JobState.VALIDATING)
            collected = threads.submit(retention.remove_expired)
            wait_until(notes, what="the pass to reach the job's row")
        assert collected.result(30) == []
    assert queries.get(job.id).state is JobState.VALIDATING
    assert directory(job).exists()


def exporting(source: Job) -> dict[str, Any]:
    """The column of a job that exports a checkpoint of another."""
    checkpoint = str(directory(source) / "checkpoints/iter_0000001")
    return {"export_of": {"job": source.id, "iteration": 1, "checkpoint": checkpoint}}


def test_what_a_live_job_exports_stays_until_its_end(thirty_days: None, job_in: JobIn) -> None:
    source = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    furnish(source)
    before = files_below(directory(source))
    export = job_in(JobState.RUNNING, **exporting(source))
    assert retention.expired() == []
    assert retention.remove_expired() == []
    assert (rows(source)["Checkpoint"], files_below(directory(source))) == (1, before)
    with writing() as session:
        transitions.move(session, queries.find(session, export.id), JobState.FINALIZING)
        transitions.move(session, queries.find(session, export.id), JobState.SUCCEEDED)
    assert [one.job_id for one in retention.remove_expired()] == [source.id]
    assert queries.get(export.id).exported is not None


def test_an_export_that_is_being_written_wins(thirty_days: None, job_in: JobIn) -> None:
    source = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    export = job_in(JobState.RUNNING)
    with ThreadPoolExecutor() as threads:
        with writing() as session:
            queries.find(session, source.id, lock=True)
            transitions.change(session, queries.find(session, export.id), **exporting(source))
            collected = threads.submit(retention.remove_expired)
            wait_until(notes, what="the pass to reach the job's row")
        assert collected.result(30) == []
    assert directory(source).exists()


def test_one_that_ended_again_meanwhile_is_another_job_for_it(
    thirty_days: None, job_in: JobIn, environment: pytest.MonkeyPatch
) -> None:
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    seen = retention.expired()
    with writing() as session:
        again = queries.find(session, job.id)
        again.attempt = 2
    environment.setattr(retention, "expired", lambda _: seen)
    assert retention.remove_expired() == []
    assert directory(job).exists()


class Crash(BaseException):
    """The end of the process at some point."""


@contextmanager
def crash(environment: pytest.MonkeyPatch, where: object, name: str) -> Iterator[None]:
    def die(*_: object, **__: object) -> None:
        raise Crash

    with environment.context() as patch:
        patch.setattr(where, name, die)
        with pytest.raises(Crash):
            yield


@pytest.mark.parametrize("what", ["jobs", "logs"])
def test_a_crash_between_rows_and_files_is_finished_by_the_next_pass(
    job_in: JobIn, environment: pytest.MonkeyPatch, what: str
) -> None:
    environment.setenv(f"SFT_KEEP_{what.upper()}_DAYS", "30")
    forget_settings()
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    furnish(job)
    place = directory(job)
    with crash(environment, LocalFiles, "remove_tree"):
        retention.remove_expired()
    assert (place / "attempts/1/logs/job.log").exists()

    environment.delenv(f"SFT_KEEP_{what.upper()}_DAYS")  # what was begun is ended all the same
    forget_settings()
    (finished,) = retention.remove_expired()
    assert finished.job_id == job.id
    assert not (place / "attempts/1/logs").exists()
    assert place.exists() == (what == "logs")
    assert retention.remove_expired() == []


@pytest.mark.parametrize("what", ["jobs", "logs"])
def test_a_crash_before_the_rows_were_removed_leaves_the_job_as_it_was(
    job_in: JobIn, environment: pytest.MonkeyPatch, what: str
) -> None:
    environment.setenv(f"SFT_KEEP_{what.upper()}_DAYS", "30")
    forget_settings()
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    furnish(job)
    before = rows(job), files_below(directory(job))
    with crash(environment, retention, "_remove_rows"):
        retention.remove_expired()
    assert len(notes()) == 1
    actions.retry(job.id, ANNA)
    assert retention.remove_expired() == []
    assert not notes()
    assert rows(job) == before[0] | {"Attempt": 2, "Event": before[0]["Event"] + 1}
    assert files_below(directory(job)) == before[1]


def test_a_note_that_was_cut_off_was_no_promise(thirty_days: None, job_in: JobIn, data_dir: Path) -> None:
    job = job_in(JobState.RUNNING)
    note = data_dir / "removals" / f"{job.id}.job.json"
    note.parent.mkdir()
    note.write_text('{"job_id": "job-')
    assert retention.remove_expired() == []
    assert not note.exists()
    assert directory(job).exists()


def test_a_note_cannot_name_a_path(thirty_days: None, data_dir: Path) -> None:
    (data_dir / "precious").mkdir()
    (data_dir / "jobs").mkdir()
    note = data_dir / "removals" / "x.json"
    note.parent.mkdir()
    claimed = {"job_id": "../precious", "cluster": "local", "what": "job", "attempt": 1, "state": "FAILED"}
    note.write_text(json.dumps({**claimed, "finished_at": LONG_AGO.isoformat()}))
    assert retention.remove_expired() == []
    assert (data_dir / "precious").exists()


def test_a_link_in_the_directory_goes_and_what_it_points_at_stays(
    thirty_days: None, job_in: JobIn, tmp_path: Path
) -> None:
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_bytes(b"p" * 5000)
    (directory(job) / "link").symlink_to(precious)
    (directory(job) / "attempts/1/file").symlink_to(precious / "file")
    (removed,) = retention.remove_expired()
    assert removed.bytes < 5000
    assert not directory(job).exists()
    assert (precious / "file").exists()


@pytest.mark.parametrize("replaced", ["", "attempts", "attempts/1", "attempts/1/logs"])
@pytest.mark.parametrize("what", ["jobs", "logs"])
def test_a_link_in_place_of_a_directory_leads_nowhere(
    job_in: JobIn, environment: pytest.MonkeyPatch, tmp_path: Path, replaced: str, what: str
) -> None:
    environment.setenv(f"SFT_KEEP_{what.upper()}_DAYS", "30")
    forget_settings()
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    other = tmp_path / "other"
    for victim in ("attempts/1/logs", "1/logs", "logs"):
        (other / victim).mkdir(parents=True)
        (other / victim / "job.log").write_bytes(b"o" * 5000)
    before = files_below(other)
    (directory(job) / "attempts/1/logs").mkdir()
    place = directory(job) / replaced
    place.rename(tmp_path / "moved")
    place.symlink_to(other)
    (removed,) = retention.remove_expired()
    assert removed.bytes < 5000
    assert files_below(other) == before
    assert directory(job).is_symlink() == (what == "logs" and replaced == "")


def test_checkpoints_that_were_saved_elsewhere_stay(thirty_days: None, job_in: JobIn, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "weights").touch()
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO, config={"checkpoint": {"save": str(elsewhere)}})
    with writing() as session:
        saved = {"path": str(elsewhere), "bytes": 0, "files": []}
        session.add(Checkpoint(job_id=job.id, iteration=1, attempt=1, saved_at=utcnow(), **saved))
    assert [one.job_id for one in retention.remove_expired()] == [job.id]
    assert (elsewhere / "weights").exists()


def test_logs_go_before_their_job_and_it_says_so(logs_thirty_days: None, job_in: JobIn) -> None:
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    furnish(job)
    (removed,) = retention.remove_expired()
    assert (removed.what, removed.bytes) == ("logs", 6)
    assert not (directory(job) / "attempts/1/logs").exists()
    assert (directory(job) / "checkpoints/weights").exists()
    with pytest.raises(Gone, match="attempt 1"):
        logs.read(logs.find(job.id))
    assert retention.remove_expired() == []

    actions.retry(job.id, ANNA)
    page = logs.read(logs.find(job.id, attempt=2))
    assert page.size == 0
    with pytest.raises(Gone):
        logs.read(logs.find(job.id, attempt=1, rank=0))

    with writing() as session:
        transitions.move(session, queries.find(session, job.id), JobState.FAILED)
        queries.find(session, job.id).finished_at = LONG_AGO
    assert [one.attempt for one in retention.remove_expired()] == [2]
    with pytest.raises(Gone, match="attempt 2"):
        logs.read(logs.find(job.id))


def test_logs_that_go_while_they_are_read_are_gone(
    logs_thirty_days: None, job_in: JobIn, environment: pytest.MonkeyPatch
) -> None:
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    furnish(job)
    stat = LocalFiles.stat

    def stat_and_then(*arguments: Any) -> FileStat:
        found = stat(*arguments)
        retention.remove_expired()
        return found

    environment.setattr(LocalFiles, "stat", stat_and_then)
    with pytest.raises(Gone):
        logs.read(logs.find(job.id))


def test_one_directory_that_cannot_be_read_keeps_no_other_job(
    thirty_days: None, job_in: JobIn, environment: pytest.MonkeyPatch
) -> None:
    spoilt, other = (job_in(JobState.SUCCEEDED, finished_at=LONG_AGO) for _ in range(2))
    original = LocalFiles.tree_size

    def tree_size(files: LocalFiles, path: Path, below: Path) -> int:
        if path == directory(spoilt):
            raise BackendUnavailable("permission denied")  # root, who runs the tests, may read anything
        return original(files, path, below)

    environment.setattr(LocalFiles, "tree_size", tree_size)
    assert [one.job_id for one in retention.remove_expired()] == [other.id]


def test_jobs_whose_files_cannot_be_seen_are_left_alone(
    thirty_days: None, job_in: JobIn, data_dir: Path
) -> None:
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    (data_dir / "jobs").rename(data_dir / "not mounted")
    assert retention.remove_expired() == []
    (data_dir / "not mounted").rename(data_dir / "jobs")
    assert [one.job_id for one in retention.remove_expired()] == [job.id]


def test_jobs_of_a_cluster_without_a_profile_are_in_nobodys_way(thirty_days: None, job_in: JobIn) -> None:
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO - timedelta(days=1), cluster="of old")
    other = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    assert [one.job_id for one in retention.remove_expired(limit=1)] == [other.id]
    assert queries.get(job.id)


OTHER_KIND = '[local]\nexecutor = "slurm"\nremote_job_dir = "{}"\n'


def test_a_profile_of_another_kind_leads_to_the_files_of_others(
    thirty_days: None, job_in: JobIn, data_dir: Path
) -> None:
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    (data_dir / "clusters.toml").write_text(OTHER_KIND.format(data_dir))
    forget_settings()
    assert retention.remove_expired() == []
    assert queries.get(job.id)
    assert directory(job).exists()


def test_a_note_waits_for_a_profile_of_its_kind(
    thirty_days: None, job_in: JobIn, data_dir: Path, environment: pytest.MonkeyPatch
) -> None:
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    with crash(environment, LocalFiles, "remove_tree"):
        retention.remove_expired()
    profiles = data_dir / "clusters.toml"
    profiles.write_text(OTHER_KIND.format(data_dir))
    forget_settings()
    assert retention.remove_expired() == []
    assert directory(job).exists()
    assert len(notes()) == 1
    profiles.unlink()
    forget_settings()
    assert [one.job_id for one in retention.remove_expired()] == [job.id]
    assert not directory(job).exists()


def test_the_oldest_go_first_some_at_a_time(thirty_days: None, job_in: JobIn) -> None:
    made = [job_in(JobState.FAILED, finished_at=LONG_AGO - timedelta(days=day)).id for day in range(3)]
    assert [one.job_id for one in retention.remove_expired(limit=2)] == [made[2], made[1]]
    assert [one.job_id for one in retention.remove_expired(limit=2)] == [made[0]]


def test_two_passes_at_once_are_one(thirty_days: None, job_in: JobIn) -> None:
    with retention._only_pass(), pytest.raises(ServiceUnavailable, match="is running"):
        retention.remove_expired()


def test_a_dry_run_removes_nothing(thirty_days: None, job_in: JobIn) -> None:
    job = job_in(JobState.SUCCEEDED, finished_at=LONG_AGO)
    furnish(job)
    before = rows(job), files_below(directory(job))
    assert [one.bytes for one in retention.expired()] == [1006]
    retention.count_expired_keys()
    assert (rows(job), files_below(directory(job))) == before


def test_an_expired_key_makes_a_new_job(spec: JobSpec, environment: pytest.MonkeyPatch) -> None:
    def make(key: str) -> create.Created:
        return create.create(spec, ANNA, key)

    old, young = make("old").job_id, make("young").job_id
    with writing() as session:
        for key, days in (("old", 8), ("young", 6)):
            row = session.get_one(IdempotencyKey, (ANNA.project, ANNA.name, key))
            row.created_at = utcnow() - timedelta(days=days)
    assert make("old").job_id == old
    assert retention.count_expired_keys() == 1
    assert retention.delete_expired_keys() == 1
    assert make("young").job_id == young
    assert make("old").is_new
    assert queries.get(old)


def test_keys_go_some_at_a_time_until_none_is_left(spec: JobSpec, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(retention, "BATCH_KEYS", 2)
    made = [create.create(spec, ANNA, f"key-{number}") for number in range(5)]
    with writing() as session:
        for row in session.exec(select(IdempotencyKey).where(col(IdempotencyKey.job_id) != made[0].job_id)):
            row.created_at = LONG_AGO
    assert retention.delete_expired_keys() == 4
    assert retention.count_expired_keys() == 0


def test_a_job_lies_where_its_attempts_say_whatever_the_profile_says_today(
    thirty_days: None, job_in: JobIn, tmp_path: Path
) -> None:
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    elsewhere = tmp_path / "another root" / "jobs" / job.id
    furnish(job)
    elsewhere.parent.mkdir(parents=True)
    directory(job).rename(elsewhere)
    with writing() as session:
        session.get_one(Attempt, (job.id, 1)).directory = str(elsewhere / "attempts" / "1")
    (removed,) = retention.remove_expired()
    assert (removed.job_id, removed.directory) == (job.id, elsewhere)
    assert not elsewhere.exists()


def test_a_note_of_version_0_1_names_no_directory(thirty_days: None, job_in: JobIn) -> None:
    job = job_in(JobState.FAILED, finished_at=LONG_AGO)
    furnish(job)
    (removal,) = retention.expired()
    note = retention._notes() / f"{job.id}.job.json"
    note.parent.mkdir()
    note.write_text(removal.model_dump_json(exclude={"directory"}))
    with writing() as session:
        transitions.remove(session, job.id)
    assert [one.job_id for one in retention.remove_expired()] == [job.id]
    assert not directory(job).exists()
