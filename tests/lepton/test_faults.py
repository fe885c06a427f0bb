"""Faults of a workspace: each job runs once, is reported correctly, and none is lost."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chaos.tally import Tally
from tests.support.lepton.service import LeptonService
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.lepton, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def clean_up(service: LeptonService) -> Iterator[None]:
    """End all jobs after each test."""
    yield
    service.lepton.faults.lift()
    if service.process.poll() is not None:
        service.restart()
    for job in service.client.get("/v1/jobs?limit=200").json()["items"]:
        if not job["terminal"]:
            service.on_lepton(job["id"], job["attempt"]).is_forgotten = False
            service.on_lepton(job["id"], job["attempt"]).shown = None
            service.ask(job["id"], "cancel")
            service.wait_for(job["id"])


def judge(service: LeptonService, tally: Tally, job_id: str, starts: list[str] | None = None) -> None:
    """Check that the job succeeded, that each run started once, and that Lepton has no other jobs of it."""
    job = service.wait_for(job_id, timeout=120)
    started, wanted = service.starts(job_id), starts or ["1"]
    made = [one for one in service.lepton.workspace.created if one.id.startswith(job_id)]
    tally.jobs += 1
    tally.wrong += job["state"] != "SUCCEEDED"
    tally.doubled += len(started) > len(wanted)
    tally.lost += len(started) < len(wanted)
    assert (job["state"], started, len(made)) == ("SUCCEEDED", wanted, len(wanted))


# -- submitted once --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffixes", [False, True], ids=["plain", "suffixed"])
@pytest.mark.parametrize("kind", ["cut", "cut_after"])
def test_a_create_with_a_lost_answer_makes_one_job(
    service: LeptonService, tally: Tally, kind: Any, suffixes: bool
) -> None:
    service.lepton.faults.suffix_names = suffixes
    service.lepton.faults.add(kind, method="POST", path="/jobs", times=1)
    tally.kills += 1
    judge(service, tally, service.submit(service.body())["id"])


def test_a_create_with_an_invalid_answer_makes_one_job(service: LeptonService, tally: Tally) -> None:
    service.lepton.faults.add("broken", method="POST", path="/jobs", times=1)
    tally.kills += 1
    judge(service, tally, service.submit(service.body())["id"])


def test_a_service_killed_during_a_create_makes_one_job(service: LeptonService, tally: Tally) -> None:
    service.lepton.faults.add("slow_after", method="POST", path="/jobs", seconds=5.0, times=1)
    job_id = service.submit(service.body())["id"]
    wait_until(lambda: service.lepton.workspace.find(f"{job_id}-1"), what="the job on Lepton")
    service.kill()
    tally.kills += 1
    service.restart()
    judge(service, tally, job_id)


# -- missing answers -------------------------------------------------------------------------------

SILENT: list[dict[str, Any]] = [
    {"kind": "cut"},
    {"kind": "broken"},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 502, "body": b"<html>Bad gateway</html>"},
    {"kind": "status", "status": 503, "headers": {"Retry-After": "1"}},
]


@pytest.mark.parametrize("fault", SILENT, ids=lambda one: "-".join(map(str, list(one.values())[:2])))
def test_an_unreachable_workspace_changes_no_state(
    service: LeptonService, tally: Tally, fault: dict[str, Any]
) -> None:
    job_id = service.run_until(4, mode="wait")["id"]
    service.lepton.faults.add(**fault)
    before = len(service.lepton.requests)
    wait_until(lambda: len(service.lepton.requests) > before + 2, what="some failed polls")
    job = service.job(job_id)
    assert (job["state"], job["failure"]) == ("RUNNING", None)
    service.lepton.faults.lift()
    (service.directory(job_id) / "go").touch()
    judge(service, tally, job_id)


def test_a_slow_workspace_is_no_failure(service: LeptonService, tally: Tally) -> None:
    service.lepton.faults.add("slow", seconds=1.0)
    judge(service, tally, service.submit(service.body())["id"])


def test_retry_after_is_honored(service: LeptonService, tally: Tally) -> None:
    job_id = service.run_until(4, mode="wait")["id"]
    limited = service.lepton.faults.add("status", status=429, headers={"Retry-After": "4"}, times=1)
    wait_until(lambda: limited.times == 0, what="a rejected call")
    began = service.lepton.request_times[-1]
    other = service.submit(service.body())["id"]
    service.wait_for_reason(other, "backend_unavailable")
    (service.directory(job_id) / "go").touch()
    judge(service, tally, job_id)
    judge(service, tally, other)
    early = [moment for moment in service.lepton.request_times if began < moment < began + 4]
    assert len(early) <= 1  # a call in flight in another thread


def test_an_expired_token_is_reported_and_a_renewed_one_is_used(service: LeptonService, tally: Tally) -> None:
    running = service.run_until(4, mode="wait")["id"]
    old, service.lepton.token = service.lepton.token, "another-token"
    assert (
        "may have expired"
        in service.wait_for_reason(running, "credentials_refused")["state_reason"]["message"]
    )
    waiting = service.submit(service.body())["id"]
    service.wait_for_reason(waiting, "credentials_refused")
    assert service.job(running)["state"] == "RUNNING"
    service.token_file.write_text("another-token\n")
    wait_until(lambda: service.job(running)["state_reason"] is None, what="the reason to go")
    (service.directory(running) / "go").touch()
    judge(service, tally, running)
    judge(service, tally, waiting)
    service.lepton.token = old
    service.token_file.write_text(old)


# -- states ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["Hibernating", "UNK", "", "Archived", "Starting"])
def test_an_unknown_state_changes_nothing(service: LeptonService, tally: Tally, state: str) -> None:
    job_id = service.run_until(4, mode="wait")["id"]
    service.on_lepton(job_id).shown = state
    polls = service.lepton.asked("GET", "/jobs")
    wait_until(lambda: service.lepton.asked("GET", "/jobs") > polls + 3, what="some polls")
    assert service.job(job_id)["state"] == "RUNNING"
    service.on_lepton(job_id).shown = None
    (service.directory(job_id) / "go").touch()
    judge(service, tally, job_id)


@pytest.mark.parametrize("state", ["Queueing", "Awaiting", "PendingRetry", "Restarting"])
def test_a_requeued_job_continues_as_a_new_attempt(service: LeptonService, tally: Tally, state: str) -> None:
    job_id = service.run_until(4)["id"]
    service.on_lepton(job_id).shown = state
    wait_until(lambda: service.lepton.asked("PATCH", f"/jobs/{job_id}-1"), what="a stop")
    assert service.job(job_id)["attempt"] == 1
    service.on_lepton(job_id).shown = None
    service.wait_for_step(job_id, 4, attempt=2)
    attempts = service.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    assert attempts[0]["failure"]["class"] == "preempted"
    assert service.on_lepton(job_id).state == "Stopped"
    tally.jobs += 1
    tally.kills += 1
    assert service.starts(job_id) == ["1", "2"]


def test_a_run_that_lepton_restarts_trains_once(service: LeptonService, tally: Tally) -> None:
    job_id = service.run_until(4)["id"]
    service.lepton.workspace.hold_queue = True
    service.on_lepton(job_id).requeue()
    wait_until(lambda: service.job(job_id)["attempt"] == 2, what="another attempt")
    service.lepton.workspace.release_queue()
    service.wait_for_step(job_id, 4, attempt=2)
    tally.jobs += 1
    tally.kills += 1
    assert service.starts(job_id) == ["1", "2"]


def test_a_run_that_lepton_restarts_between_two_polls_is_recovered(
    service: LeptonService, tally: Tally
) -> None:
    job_id = service.run_until(4)["id"]
    service.lepton.faults.add("status", method="GET", path="/jobs", status=500)
    service.on_lepton(job_id).requeue()
    wait_until(lambda: service.on_lepton(job_id).state == "Failed", what="the end of its second run")
    service.lepton.faults.lift()
    service.wait_for_step(job_id, 4, attempt=2)
    attempts = service.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    assert attempts[0]["failure"]["class"] == "preempted"
    tally.jobs += 1
    tally.kills += 1
    assert service.starts(job_id) == ["1", "2"]


def test_a_replica_that_is_killed_fails_the_job(service: LeptonService) -> None:
    job_id = service.run_until(4, resources={"nodes": 2})["id"]
    service.on_lepton(job_id).kill_replica(1)
    assert service.wait_for(job_id)["state"] == "FAILED"


def test_an_unknown_job_is_not_lost_at_once(service: LeptonService, tally: Tally) -> None:
    job_id = service.run_until(4, mode="wait")["id"]
    service.on_lepton(job_id).is_forgotten = True
    polls = service.lepton.asked("GET", f"/jobs/{job_id}-1")
    wait_until(lambda: service.lepton.asked("GET", f"/jobs/{job_id}-1") > polls + 2, what="some queries")
    assert service.job(job_id)["state"] == "RUNNING"
    service.on_lepton(job_id).is_forgotten = False
    (service.directory(job_id) / "go").touch()
    judge(service, tally, job_id)


def test_runs_that_lepton_no_longer_knows_are_lost(service: LeptonService) -> None:
    ways = [(fate, cluster) for fate in ("is_forgotten", "is_archived") for cluster in ("mounted", "far")]
    jobs = [service.run_until(4, cluster=cluster)["id"] for _, cluster in ways]
    for (fate, _), job_id in zip(ways, jobs, strict=True):
        setattr(service.on_lepton(job_id), fate, True)
    service.kill()
    service.restart(SFT_LOST_AFTER_SECONDS="2")
    assert [service.wait_for(job_id)["state"] for job_id in jobs] == ["LOST"] * 4
    for job_id in jobs:
        service.on_lepton(job_id).close()
    service.kill()
    service.restart()


@pytest.mark.parametrize("cluster", ["mounted", "far"])
def test_an_archived_job_ends_as_its_log_says(service: LeptonService, tally: Tally, cluster: str) -> None:
    job_id = service.submit(service.body("wait", cluster))["id"]
    service.wait_for_step(job_id, 4)
    service.lepton.faults.add("status", method="GET", path="/jobs", status=500)
    (service.directory(job_id) / "go").touch()
    wait_until(lambda: service.on_lepton(job_id).state == "Completed", what="its end")
    service.on_lepton(job_id).is_archived = True
    service.lepton.faults.lift()
    judge(service, tally, job_id)


# -- logs ------------------------------------------------------------------------------------------


def lines_of(service: LeptonService, job_id: str) -> list[str]:
    """Return the lines that the replicas have printed, sorted."""
    streams = service.on_lepton(job_id).logs.history(0, 1 << 62, limit=100_000, forward=True)
    return sorted(line for stream in streams for _, line in stream["values"])


@pytest.mark.parametrize("fault", ["repeat_lines", "late", "late_end", "bare_lists"])
def test_the_log_is_complete_without_repeats(service: LeptonService, tally: Tally, fault: str) -> None:
    if fault in ("repeat_lines", "bare_lists"):
        setattr(service.lepton.faults, fault, True)
    late = {"late": {1: 1.0}, "late_end": {0: 3.0, 1: 3.0}}.get(fault, {})
    service.lepton.faults.late_seconds.update(late)
    cluster = "patient" if late else "mounted"  # it settles later than the last line
    job_id = service.submit(service.body(cluster=cluster, resources={"nodes": 2, "gpus_per_node": 2}))["id"]
    judge(service, tally, job_id)
    service.lepton.faults.repeat_lines = False
    service.lepton.faults.late_seconds.clear()
    assert sorted(service.log(job_id).splitlines()) == lines_of(service, job_id)
    steps = service.client.get(f"/v1/jobs/{job_id}/metrics").json()["train"]
    assert [one["step"] for one in steps] == [1, 2, 3, 4]
    events = service.client.get(f"/v1/jobs/{job_id}/events?limit=100").json()["items"]
    assert [one["type"] for one in events].count("trainer.started") == 1


def test_a_log_survives_restarts_without_gaps_or_repeats(service: LeptonService, tally: Tally) -> None:
    job_id = service.run_until(4, mode="talk", resources={"nodes": 2, "gpus_per_node": 2})["id"]
    for _ in range(3):
        size = len(service.log(job_id))
        wait_until(lambda before=size: len(service.log(job_id)) > before, what="some more lines")
        service.kill()
        tally.kills += 1
        service.restart()
    (service.directory(job_id) / "go").touch()
    judge(service, tally, job_id)
    log = service.log(job_id).splitlines()
    assert sorted(log) == lines_of(service, job_id)
    for rank in range(4):
        numbers = [int(line.split()[4]) for line in log if line.startswith(f"rank {rank} has printed")]
        assert numbers == list(range(len(numbers)))
        assert numbers


def test_one_list_shows_all_jobs_of_a_poll(service: LeptonService, tally: Tally) -> None:
    jobs = [service.run_until(4, mode="wait")["id"] for _ in range(4)]
    service.lepton.requests.clear()
    wait_until(lambda: service.lepton.asked("GET", "/jobs") > 6, what="some polls")
    asked = list(service.lepton.requests)
    pages = [query["page"] for method, path, query in asked if (method, path) == ("GET", "/jobs")]
    assert set(pages) == {"1", "2"}  # the second one is empty, and ends the list
    assert not [path for _, path, _ in asked if path.startswith("/jobs/")]
    for job_id in jobs:
        (service.directory(job_id) / "go").touch()
        judge(service, tally, job_id)
