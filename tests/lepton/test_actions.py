"""Actions and ends of a job in a workspace: pause, resume, cancel, rejection, time limit."""

import os
import time

import pytest

from tests.support.lepton.service import LeptonService

pytestmark = [pytest.mark.slow, pytest.mark.lepton]

BOTH = pytest.mark.parametrize("cluster", ["mounted", "far"])


def test_rank_logs_are_read_from_the_storage(service: LeptonService) -> None:
    for cluster, status in (("mounted", 200), ("far", 409)):
        job = service.wait_for(service.submit(service.body(cluster=cluster))["id"])
        answer = service.client.get(f"/v1/jobs/{job['id']}/logs?rank=0")
        assert answer.status_code == status, answer.text


def test_a_pause_saves_and_a_resumed_job_is_a_new_attempt(service: LeptonService) -> None:
    job_id = service.run_until(4)["id"]
    service.ask(job_id, "pause")
    paused = service.wait_for(job_id, "PAUSED")
    assert paused["state_reason"]["message"] == "Saved and stopped at step 4."
    service.ask(job_id, "resume")
    service.wait_for_step(job_id, 4, attempt=2)
    service.ask(job_id, "cancel")
    service.wait_for(job_id, "CANCELLED")
    assert service.starts(job_id) == ["1", "2"]


def test_a_job_without_reachable_files_cannot_be_paused(service: LeptonService) -> None:
    job = service.run_until(4, cluster="far")
    assert job["allowed_actions"] == ["cancel"]
    answer = service.client.post(f"/v1/jobs/{job['id']}/pause")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_reachable")
    assert service.job(job["id"])["state"] == "RUNNING"
    service.ask(job["id"], "cancel")
    service.wait_for(job["id"], "CANCELLED")


@BOTH
def test_a_cancelled_job_is_stopped_and_its_record_stays(service: LeptonService, cluster: str) -> None:
    running = service.run_until(4, cluster=cluster)["id"]
    service.lepton.workspace.hold_queue = True
    waiting = service.submit(service.body(cluster=cluster))["id"]
    service.wait_for_reason(waiting, "pending")
    for job_id in (waiting, running):
        service.ask(job_id, "cancel")
        service.wait_for(job_id, "CANCELLED")
        assert service.on_lepton(job_id).view()["status"]["state"] == "Stopped"
    assert service.starts(waiting) == []
    assert service.lepton.asked("DELETE", f"/jobs/{running}-1") == 0


def test_a_rejected_job_fails_with_leptons_message(service: LeptonService) -> None:
    message = b'{"code": "InvalidArgument", "message": "resource shape cpu.large is not in node group"}'
    service.lepton.faults.add("status", method="POST", path="/jobs", status=400, body=message)
    job = service.wait_for(service.submit(service.body())["id"])
    assert (job["state"], job["failure"]["class"]) == ("FAILED", "scheduler_rejected")
    assert "resource shape cpu.large is not in node group" in job["failure"]["cause"]


def test_a_waiting_job_shows_its_reason_and_its_ready_replicas(service: LeptonService) -> None:
    service.lepton.workspace.hold_queue = True
    job_id = service.submit(service.body(resources={"nodes": 2}))["id"]
    waiting = service.wait_for_reason(job_id, "pending")
    assert waiting["state_reason"]["message"].startswith("Waits in the workspace's queue.")
    service.on_lepton(job_id).shown = "Starting"
    starting = service.wait_for_reason(job_id, "starting")
    assert starting["state_reason"]["message"].endswith("0 of 2 replicas are ready.")
    service.on_lepton(job_id).shown = None
    service.lepton.workspace.release_queue()
    assert service.wait_for(job_id)["state"] == "SUCCEEDED"


def test_an_image_pull_failure_is_reported(service: LeptonService) -> None:
    service.lepton.workspace.hold_queue = True
    job_id = service.submit(service.body())["id"]
    service.wait_for_reason(job_id, "pending")
    service.on_lepton(job_id).note_event("Warning", "ImagePullBackOff")
    service.on_lepton(job_id).shown = "Starting"
    assert "could not be pulled" in service.wait_for_reason(job_id, "image_pull")["state_reason"]["message"]
    service.on_lepton(job_id).shown = "Failed"
    assert service.wait_for(job_id)["failure"]["class"] == "image_pull"


def test_a_job_saves_at_its_time_limit_and_is_recovered(service: LeptonService) -> None:
    job_id = service.run_until(4, resources={"time_limit_minutes": 1})["id"]
    service.wait_for_step(job_id, 4, attempt=2, timeout=90)
    [first, _] = service.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    assert first["failure"]["class"] == "time_limit"
    assert service.starts(job_id) == ["1", "2"]
    service.ask(job_id, "cancel")
    service.wait_for(job_id, "CANCELLED")


def test_an_expired_job_is_deleted_with_all_its_files(service: LeptonService) -> None:
    job_id = service.submit(service.body())["id"]
    service.wait_for(job_id)
    mirrored = service.data_dir / "lepton" / "mounted" / "jobs" / job_id
    on_storage = service.directory(job_id).parents[1]
    assert mirrored.is_dir()
    assert on_storage.is_dir()
    service.gc(SFT_KEEP_JOBS_DAYS="0.0000001")
    assert not mirrored.exists()
    assert not on_storage.exists()


def test_a_run_that_hangs_beyond_its_time_limit_is_stopped(service: LeptonService) -> None:
    job_id = service.run_until(4, resources={"time_limit_minutes": 30})["id"]
    began = service.data_dir / "lepton" / "mounted" / "jobs" / job_id / "attempts" / "1" / "began"
    an_hour_ago = time.time() - 3600
    os.utime(began, (an_hour_ago, an_hour_ago))
    service.wait_for_step(job_id, 4, attempt=2)
    assert service.on_lepton(job_id).view()["status"]["state"] == "Stopped"
    [first, _] = service.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    assert first["failure"]["class"] == "time_limit"
    service.ask(job_id, "cancel")
    service.wait_for(job_id, "CANCELLED")
