"""The life cycle of a job on a real Slurm: submit, poll, pause, resume, cancel, reject."""

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.slurm_service import SlurmService, run_environment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

NEAR_AND_FAR = pytest.mark.parametrize("cluster", ["near", "far"])


@NEAR_AND_FAR
def test_a_job_on_two_nodes_trains_and_shows_its_results(on_slurm: SlurmService, cluster: str) -> None:
    resources = {"nodes": 2, "gpus_per_node": 2}
    job = on_slurm.submit(on_slurm.body(cluster=cluster, resources=resources))
    job = on_slurm.wait_for(job["id"])
    assert (job["state"], job["progress"]["step"], job["progress"]["loss"]) == ("SUCCEEDED", 4, 4.0)
    assert job["backend"]["kind"] == "slurm"
    assert on_slurm.starts(job["id"]) == ["1"]
    for rank in range(4):
        log = on_slurm.client.get(f"/v1/jobs/{job['id']}/logs?rank={rank}").json()
        assert log["text"] == f"rank {rank} says hello\n"
    assert (
        "größe: ééé\nbad byte \ufffd here\n"
        in on_slurm.client.get(f"/v1/jobs/{job['id']}/logs").json()["text"]
    )
    steps = on_slurm.client.get(f"/v1/jobs/{job['id']}/metrics").json()["train"]
    assert [one["step"] for one in steps] == [1, 2, 3, 4]


@NEAR_AND_FAR
def test_a_checkpoint_is_downloaded_unchanged(on_slurm: SlurmService, cluster: str) -> None:
    job = on_slurm.wait_for(on_slurm.submit(on_slurm.body(cluster=cluster))["id"])
    [saved] = on_slurm.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["items"]
    file = "__0_0.distcp"
    answer = on_slurm.client.get(f"/v1/jobs/{job['id']}/checkpoints/{saved['iteration']}/files/{file}")
    on_disk = (on_slurm.root / "jobs" / job["id"] / "checkpoints" / "iter_0000004" / file).read_bytes()
    assert hashlib.sha256(answer.content).hexdigest() == hashlib.sha256(on_disk).hexdigest()


@NEAR_AND_FAR
def test_a_pause_saves_and_a_resumed_job_is_a_new_attempt(on_slurm: SlurmService, cluster: str) -> None:
    job_id = on_slurm.run_until(4, cluster=cluster)["id"]
    on_slurm.ask(job_id, "pause")
    paused = on_slurm.wait_for(job_id, "PAUSED")
    assert paused["state_reason"]["message"] == "Saved and stopped at step 4."
    assert paused["allowed_actions"] == ["resume", "cancel"]
    on_slurm.ask(job_id, "resume")
    again = on_slurm.wait_for_step(job_id, 4, attempt=2)
    assert again["state"] == "RUNNING"
    on_slurm.ask(job_id, "pause")
    on_slurm.wait_for(job_id, "PAUSED")
    on_slurm.ask(job_id, "cancel")
    on_slurm.wait_for(job_id, "CANCELLED")
    assert [one["outcome"] for one in on_slurm.attempts(job_id)] == ["PAUSED", "PAUSED"]
    assert on_slurm.starts(job_id) == ["1", "2"]


def test_a_running_and_a_waiting_job_are_cancelled(on_slurm: SlurmService) -> None:
    running = on_slurm.run_until(4, cluster="exclusive", resources={"nodes": 2})["id"]
    waiting = on_slurm.submit(on_slurm.body(cluster="exclusive", resources={"nodes": 2}))["id"]
    wait_until(lambda: (on_slurm.job(waiting)["queue"] or {}).get("reason"), what="a reason to wait")
    assert on_slurm.job(waiting)["state_reason"]["code"] == "pending"
    for job_id in (waiting, running):
        on_slurm.ask(job_id, "cancel")
        on_slurm.wait_for(job_id, "CANCELLED")
    assert on_slurm.starts(waiting) == []


def test_a_job_cancelled_on_the_cluster_is_cancelled(on_slurm: SlurmService) -> None:
    job = on_slurm.run_until(4)
    on_slurm.slurm.run("scancel", job["backend"]["external_id"])
    ended = on_slurm.wait_for(job["id"])
    assert (ended["state"], ended["state_reason"]["code"]) == ("CANCELLED", "cancelled_on_cluster")


REJECTED = {
    "no-partition": ("nvalid partition", "partition"),
    "no-account": ("nvalid account", "account"),
    "no-qos": ("nvalid qos", "qos"),
    "no-cpu": ("ore processors requested than permitted", "CPUs"),
    "no-memory": ("emory specification can not be satisfied", "fewer"),
    "no-option": ("nvalid --mem specification", "profile"),
    "no-feature": ("nvalid feature specification", "constraint"),
    "no-reservation": ("equested reservation is invalid", "reservation"),
    "near": ("ode count specification invalid", "fewer nodes"),
    "too-long": ("equested time limit is invalid", "less time"),
}


@pytest.mark.parametrize("cluster", REJECTED)
def test_a_rejected_job_fails_with_slurms_message_and_a_hint(on_slurm: SlurmService, cluster: str) -> None:
    nodes = 8 if cluster == "near" else 1  # the cluster has two
    job = on_slurm.submit(on_slurm.body(cluster=cluster, resources={"nodes": nodes}))
    job = on_slurm.wait_for(job["id"])
    assert (job["state"], job["failure"]["class"]) == ("FAILED", "scheduler_rejected")
    message, hint = REJECTED[cluster]
    assert message in job["failure"]["cause"]
    assert hint in job["failure"]["recovery"]
    assert on_slurm.starts(job["id"]) == []


def test_only_the_user_can_access_a_jobs_directory(on_slurm: SlurmService) -> None:
    job = on_slurm.wait_for(on_slurm.submit(on_slurm.body())["id"])
    directory = on_slurm.root / "jobs" / job["id"]
    saved = directory / "checkpoints"
    for path in (directory, *directory.glob("attempts/*")):
        assert path.stat().st_mode & 0o077 == 0, path
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*")} == {0o750, 0o640}  # `file_mode`


def test_the_code_is_staged_once(on_slurm: SlurmService) -> None:
    on_slurm.wait_for(on_slurm.submit(on_slurm.body())["id"])
    [staged] = (on_slurm.root / "code").iterdir()
    before = staged.stat().st_mtime_ns
    on_slurm.wait_for(on_slurm.submit(on_slurm.body())["id"])
    assert [one.stat().st_mtime_ns for one in (on_slurm.root / "code").iterdir()] == [before]
    assert (staged / "trainer" / "config" / "bridge.json").is_file()


def test_a_job_waits_while_slurms_commands_fail(on_slurm: SlurmService) -> None:
    job_id = on_slurm.submit(on_slurm.body(cluster="not-there"))["id"]

    def unavailable() -> dict[str, Any] | None:
        reason = on_slurm.job(job_id)["state_reason"]
        return reason if reason and reason["code"] == "backend_unavailable" else None

    assert wait_until(unavailable, what="a reason")
    assert on_slurm.job(job_id)["state"] == "SUBMITTING"
    on_slurm.ask(job_id, "cancel")


def test_a_job_has_only_the_requested_gpus(on_slurm: SlurmService) -> None:
    body = on_slurm.body("hold", resources={"gpus_per_node": 2})
    body["overrides"].append("device=cuda")
    job = on_slurm.wait_for_step(on_slurm.submit(body)["id"], 4)
    assert "#SBATCH --gpus-per-node=2\n" in (on_slurm.directory(job["id"]) / "job.sh").read_text()
    shown = on_slurm.slurm.run("scontrol", "--details", "show", "job", job["backend"]["external_id"]).stdout
    assert "GRES=gpu:2(" in shown
    [seen] = set(re.findall("'CUDA_VISIBLE_DEVICES': '([^']*)'", run_environment(on_slurm, job["id"])))
    assert len(seen.split(",")) == 2
    on_slurm.ask(job["id"], "cancel")


def test_a_pending_job_shows_its_estimated_start(on_slurm: SlurmService) -> None:
    takes_all = ("--nodes=2", "--exclusive", "--time=5", "--output=/dev/null", "--wrap", "sleep 600")
    blocker = on_slurm.slurm.run("sbatch", "--parsable", *takes_all).stdout.strip()
    body = on_slurm.body(cluster="exclusive", resources={"nodes": 2})
    job_id = on_slurm.submit(body)["id"]
    begins = wait_until(
        lambda: (on_slurm.job(job_id)["queue"] or {}).get("estimated_start"), 60, "an estimate"
    )
    assert datetime.fromisoformat(begins) > datetime.now(UTC)
    on_slurm.slurm.run("scancel", blocker)
    ended = on_slurm.wait_for(job_id)
    assert (ended["state"], ended["queue"]) == ("SUCCEEDED", None)
