"""Faults of a cluster: preemption, lost nodes, time limits, lost state, no answers."""

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.support.chaos.tally import Tally
from tests.support.slurm_service import SlurmService
from tests.support.waiting import wait_until
from worker.backends import interface
from worker.backends.access.transport import LocalTransport
from worker.backends.slurm.backend import SlurmBackend
from worker.clusters.profiles import SlurmCluster

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def clean_up(on_slurm: SlurmService) -> Iterator[None]:
    """Restart all daemons and end all jobs after each test."""
    yield
    for name in ("slurmdbd", "slurmctld", "slurmd-n1", "slurmd-n2", "sshd"):
        on_slurm.slurm.revive(name)
    on_slurm.slurm.resume()
    for job in on_slurm.client.get("/v1/jobs?limit=200").json()["items"]:
        if not job["terminal"]:
            on_slurm.client.post(f"/v1/jobs/{job['id']}/cancel")  # may fail: the job may have ended
            on_slurm.wait_for(job["id"], timeout=180)
    wait_until(lambda: on_slurm.slurm.run("squeue", "--noheader").stdout.strip() == "", 60, "an empty queue")


def judge(service: SlurmService, tally: Tally, job_id: str, starts: list[str]) -> None:
    """Count a fault, and check that exactly these attempts were started."""
    tally.jobs += 1
    tally.kills += 1
    started = service.starts(job_id)
    tally.lost += started == []
    tally.doubled += len(set(started)) < len(started)
    tally.wrong += started != starts
    assert started == starts


def finish(service: SlurmService, job_id: str) -> dict[str, Any]:
    """Pause and cancel a holding job: this checks that its run worked to its end."""
    service.ask(job_id, "pause")
    paused = service.wait_for(job_id, "PAUSED")
    service.ask(job_id, "cancel")
    service.wait_for(job_id)
    return paused


# -- runs that the cluster ends --------------------------------------------------------------------


def test_a_requeued_job_is_a_new_attempt_with_its_own_logs(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.run_until(4)
    on_slurm.slurm.run("scontrol", "requeue", job["backend"]["external_id"])
    again = on_slurm.wait_for_step(job["id"], 4, attempt=2)
    assert again["backend"]["external_id"] == job["backend"]["external_id"]
    first, second = on_slurm.attempts(job["id"])
    assert (first["outcome"], second["origin"]) == ("RECOVERING", "requeued")
    assert (on_slurm.directory(job["id"], 2) / "logs" / "rank-0.log").exists()
    finish(on_slurm, job["id"])
    judge(on_slurm, tally, job["id"], ["1", "2"])


def test_a_requeued_job_that_had_finished_does_not_run_again(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.wait_for(on_slurm.submit(on_slurm.body())["id"], "SUCCEEDED", timeout=100)
    on_slurm.slurm.run("scontrol", "requeue", job["backend"]["external_id"])
    again = on_slurm.directory(job["id"], 2) / "end.json"
    wait_until(again.exists, 100, "Slurm to restart it")
    log = again.parent / "logs" / "job.log"
    assert "The run had finished" in log.read_text()
    judge(on_slurm, tally, job["id"], ["1"])


def test_a_cancelled_requeued_job_does_not_run_again(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.run_until(4)
    on_slurm.slurm.run("scontrol", "requeue", job["backend"]["external_id"])
    on_slurm.ask(job["id"], "cancel")
    assert on_slurm.wait_for(job["id"])["state"] == "CANCELLED"
    judge(on_slurm, tally, job["id"], ["1"])


@pytest.mark.parametrize("name", ["ü" * 60, "a\nb", "€uro"])
def test_other_jobs_of_the_user_may_have_any_name(on_slurm: SlurmService, name: str) -> None:
    on_slurm.slurm.run("sbatch", f"--job-name={name}", "--hold", "--output=/dev/null", "--wrap=true")
    assert on_slurm.wait_for(on_slurm.submit(on_slurm.body())["id"])["state"] == "SUCCEEDED"
    on_slurm.slurm.run("scancel", "--user=root")


def test_a_preempted_job_resumes_when_its_nodes_are_free(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.run_until(4, cluster="exclusive", resources={"nodes": 2})
    urgent = on_slurm.slurm.run(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 600"
    ).stdout.strip()
    on_slurm.wait_for(job["id"], "QUEUED")
    assert not on_slurm.job(job["id"])["terminal"]
    on_slurm.slurm.run("scancel", urgent)
    on_slurm.wait_for_step(job["id"], 4, attempt=2)
    finish(on_slurm, job["id"])
    judge(on_slurm, tally, job["id"], ["1", "2"])


def test_without_a_requeue_the_service_recovers_the_job(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.run_until(4, cluster="no-requeue", resources={"nodes": 2})
    urgent = on_slurm.slurm.run(
        "sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--wrap", "sleep 600"
    ).stdout.strip()
    recovering = on_slurm.wait_for(job["id"], "RECOVERING")
    assert recovering["state_reason"]["code"] == "preempted"
    on_slurm.slurm.run("scancel", urgent)
    on_slurm.wait_for_step(job["id"], 4, attempt=2)
    first, second = on_slurm.attempts(job["id"])
    assert (first["failure"]["class"], second["origin"]) == ("preempted", "recovered")
    finish(on_slurm, job["id"])
    judge(on_slurm, tally, job["id"], ["1", "2"])


def test_a_node_that_dies_costs_an_attempt(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.run_until(4)
    external_id = job["backend"]["external_id"]
    node = on_slurm.slurm.run(
        "squeue", "--noheader", "--jobs", external_id, "--Format", "NodeList"
    ).stdout.strip()
    on_slurm.slurm.kill(f"slurmd-{node}", signal.SIGKILL)
    end_steps(external_id)
    on_slurm.wait_for_step(job["id"], 4, attempt=2, timeout=180)
    finish(on_slurm, job["id"])
    judge(on_slurm, tally, job["id"], ["1", "2"])


def end_steps(external_id: str) -> None:
    """Kill the job's processes, as on a dead node."""
    for process in psutil.process_iter(["name", "cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if process.info["name"] == "slurmstepd" and f"[{external_id}." in line:
            for child in [*process.children(recursive=True), process]:
                child.kill()


def test_a_job_saves_at_its_time_limit_and_is_recovered(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.submit(on_slurm.body("hold", "short", resources={"time_limit_minutes": 1}))
    on_slurm.wait_for_step(job["id"], 4, attempt=2, timeout=180)
    first, second = on_slurm.attempts(job["id"])
    assert (first["failure"]["class"], second["origin"]) == ("time_limit", "recovered")
    assert on_slurm.job(job["id"])["latest_checkpoint"]["attempt"] == 1
    on_slurm.ask(job["id"], "cancel")
    on_slurm.wait_for(job["id"])
    judge(on_slurm, tally, job["id"], ["1", "2"])


def test_a_job_fails_when_its_recovery_limit_is_reached(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.submit(on_slurm.body("hold", "once", resources={"time_limit_minutes": 1}))
    ended = on_slurm.wait_for(job["id"], timeout=180)
    assert (ended["state"], ended["failure"]["class"]) == ("FAILED", "time_limit")
    judge(on_slurm, tally, job["id"], ["1"])


def test_a_run_that_ignores_the_warning_is_ended_by_slurm(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.submit(on_slurm.body("wait", "once", resources={"time_limit_minutes": 1}))
    ended = on_slurm.wait_for(job["id"], timeout=240)
    assert (ended["state"], ended["failure"]["class"]) == ("FAILED", "time_limit")
    assert "TIMEOUT" in ended["state_reason"]["raw"]
    judge(on_slurm, tally, job["id"], ["1"])


# -- the controller --------------------------------------------------------------------------------


def test_jobs_that_the_controller_lost_run_once(on_slurm: SlurmService, tally: Tally) -> None:
    blocker = on_slurm.slurm.run(
        "sbatch", "--parsable", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600"
    ).stdout.strip()
    wait_until(lambda: blocker in on_slurm.slurm.run("squeue", "--states=RUNNING").stdout, what="its start")
    jobs = [on_slurm.submit(on_slurm.body(resources={"nodes": 2})) for _ in range(3)]
    for job in jobs:
        wait_until(lambda job_id=job["id"]: on_slurm.job(job_id)["backend"]["external_id"], what="an id")  # type: ignore[misc]
    on_slurm.slurm.kill("slurmctld", signal.SIGKILL)
    on_slurm.slurm.revive("slurmctld")
    on_slurm.slurm.run("scancel", blocker)
    for job in jobs:
        assert on_slurm.wait_for(job["id"], timeout=180)["state"] == "SUCCEEDED"
        assert len(on_slurm.starts(job["id"])) == 1
        judge(on_slurm, tally, job["id"], on_slurm.starts(job["id"]))


def test_jobs_are_only_stale_while_the_controller_is_down(on_slurm: SlurmService, tally: Tally) -> None:
    job = on_slurm.run_until(4)
    on_slurm.slurm.kill("slurmctld", signal.SIGTERM)  # it saves its state
    wait_until(lambda: on_slurm.job(job["id"])["stale"], 90, "a stale job")
    assert on_slurm.job(job["id"])["state"] == "RUNNING"
    on_slurm.slurm.revive("slurmctld")
    wait_until(lambda: not on_slurm.job(job["id"])["stale"], 90, "a new poll")
    assert on_slurm.job(job["id"])["state"] == "RUNNING"
    finish(on_slurm, job["id"])
    judge(on_slurm, tally, job["id"], ["1"])


def test_a_submission_to_a_dead_controller_waits_for_it(on_slurm: SlurmService, tally: Tally) -> None:
    on_slurm.slurm.kill("slurmctld", signal.SIGTERM)
    job_id = on_slurm.submit(on_slurm.body())["id"]

    def unavailable() -> dict[str, Any] | None:
        reason: dict[str, Any] | None = on_slurm.job(job_id)["state_reason"]
        return reason if reason and reason["code"] == "backend_unavailable" else None

    wait_until(unavailable, 90, "a reason")
    assert on_slurm.job(job_id)["state"] == "SUBMITTING"
    on_slurm.slurm.revive("slurmctld")
    assert on_slurm.wait_for(job_id, timeout=180)["state"] == "SUCCEEDED"
    judge(on_slurm, tally, job_id, ["1"])


@pytest.mark.parametrize("cluster", ["near", "far"])
def test_a_submission_to_a_hung_controller_runs_once(
    on_slurm: SlurmService, tally: Tally, cluster: str
) -> None:
    on_slurm.slurm.kill("slurmctld", signal.SIGSTOP)
    job_id = on_slurm.submit(on_slurm.body(cluster=cluster))["id"]
    wait_until(
        lambda: (on_slurm.job(job_id)["state_reason"] or {}).get("code") == "backend_unavailable",
        90,
        "a submission that timed out",
    )
    on_slurm.slurm.kill("slurmctld", signal.SIGCONT)
    assert on_slurm.wait_for(job_id, timeout=180)["state"] == "SUCCEEDED"
    judge(on_slurm, tally, job_id, ["1"])


def test_a_hung_cluster_does_not_block_other_clusters(on_slurm: SlurmService, tally: Tally) -> None:
    on_slurm.slurm.kill("slurmctld", signal.SIGSTOP)
    hung = [on_slurm.submit(on_slurm.body())["id"] for _ in range(8)]
    for _ in range(3):
        job_id = on_slurm.submit(on_slurm.body(cluster="here"))["id"]
        assert on_slurm.wait_for(job_id)["state"] == "SUCCEEDED"
    on_slurm.slurm.kill("slurmctld", signal.SIGCONT)
    for job_id in hung:
        assert on_slurm.wait_for(job_id, timeout=180)["state"] == "SUCCEEDED"
        judge(on_slurm, tally, job_id, ["1"])


def test_accounting_that_is_down_changes_nothing(on_slurm: SlurmService, tally: Tally) -> None:
    running = on_slurm.run_until(4)["id"]
    on_slurm.slurm.kill("slurmdbd", signal.SIGKILL)
    job_id = on_slurm.submit(on_slurm.body())["id"]
    assert on_slurm.wait_for(job_id)["state"] == "SUCCEEDED"
    finish(on_slurm, running)
    judge(on_slurm, tally, job_id, ["1"])
    judge(on_slurm, tally, running, ["1"])


# -- SSH -------------------------------------------------------------------------------------------


def test_repeatedly_cut_ssh_duplicates_and_loses_no_job(on_slurm: SlurmService, tally: Tally) -> None:
    with ThreadPoolExecutor(4) as clients:
        posted = [clients.submit(on_slurm.submit, on_slurm.body(cluster="far")) for _ in range(20)]
        job_ids = {one.result()["id"] for one in posted}
        waiting = set(job_ids)
        while waiting:
            tally.kills += cut_ssh(on_slurm)
            job_id = waiting.pop()
            on_slurm.wait_for(job_id, timeout=240)
    for job_id in job_ids:
        assert on_slurm.job(job_id)["state"] == "SUCCEEDED"
        judge(on_slurm, tally, job_id, ["1"])


def test_cancelling_an_unknown_job_is_no_error(on_slurm: SlurmService) -> None:
    profile = SlurmCluster(name="near", executor="slurm", remote_job_dir=on_slurm.root)
    transport = LocalTransport({"SLURM_CONF": str(on_slurm.slurm.conf)})
    SlurmBackend(profile, transport).cancel(interface.Handle("4000000", "job-1.1", on_slurm.root))


def cut_ssh(service: SlurmService) -> int:
    """Kill the sessions of the cluster's sshd; return their number."""
    sessions = psutil.Process(service.slurm.pid("sshd")).children(recursive=True)
    for process in sessions:
        with suppress(psutil.NoSuchProcess):  # it ended with another process
            process.kill()
    return len(sessions)
