"""One life of a job in a workspace: created, watched, read, paused, resumed, cancelled, refused."""

import pytest

from tests.lepton.parts import LeptonService

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("cluster", ["mounted", "far"])


@BOTH
def test_a_job_on_two_nodes_trains_and_shows_what_it_did(service: LeptonService, cluster: str) -> None:
    resources = {"nodes": 2, "gpus_per_node": 2}
    job = service.submit(service.body(cluster=cluster, resources=resources))
    job = service.wait_for(job["id"])
    assert (job["state"], job["progress"]["step"], job["progress"]["loss"]) == ("SUCCEEDED", 4, 4.0)
    assert job["backend"]["kind"] == "lepton"
    assert service.starts(job["id"]) == ["1"]
    assert "größe: ééé\nbad byte \ufffd here\n" in service.log(job["id"])
    steps = service.client.get(f"/v1/jobs/{job['id']}/metrics").json()["train"]
    assert [one["step"] for one in steps] == [1, 2, 3, 4]


def test_its_checkpoint_is_downloaded_where_the_service_has_the_storage(service: LeptonService) -> None:
    job = service.wait_for(service.submit(service.body())["id"])
    [saved] = service.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["items"]
    answer = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/{saved['iteration']}/files/__0_0.distcp")
    on_storage = service.directory(job["id"]).parents[1] / "checkpoints" / "iter_0000004" / "__0_0.distcp"
    assert answer.content == on_storage.read_bytes()
    archive = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/{saved['iteration']}/archive")
    assert archive.status_code == 200


def test_where_it_has_not_checkpoints_are_listed_and_not_reachable(service: LeptonService) -> None:
    job = service.wait_for(service.submit(service.body(cluster="far"))["id"])
    assert job["state"] == "SUCCEEDED"
    [saved] = service.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["items"]
    assert saved["path"].endswith(f"/sft/jobs/{job['id']}/checkpoints/iter_0000004")
    detail = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/4").json()
    assert {file["path"] for file in detail["files"]} == {".metadata", "metadata.json", "__0_0.distcp"}
    for way in ("files/metadata.json", "archive"):
        answer = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/4/{way}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_reachable")
        assert "local_mount" in answer.json()["hint"]


def test_the_log_of_a_rank_is_on_the_storage(service: LeptonService) -> None:
    for cluster, status in (("mounted", 200), ("far", 409)):
        job = service.wait_for(service.submit(service.body(cluster=cluster))["id"])
        answer = service.client.get(f"/v1/jobs/{job['id']}/logs?rank=0")
        assert answer.status_code == status, answer.text


def test_a_pause_saves_and_a_resumed_job_is_another_attempt(service: LeptonService) -> None:
    job_id = service.run_until(4)["id"]
    service.ask(job_id, "pause")
    paused = service.wait_for(job_id, "PAUSED")
    assert paused["state_reason"]["message"] == "Saved and stopped at step 4."
    service.ask(job_id, "resume")
    service.wait_for_step(job_id, 4, attempt=2)
    service.ask(job_id, "cancel")
    service.wait_for(job_id, "CANCELLED")
    assert service.starts(job_id) == ["1", "2"]


def test_a_job_whose_files_are_out_of_reach_cannot_be_paused(service: LeptonService) -> None:
    job = service.run_until(4, cluster="far")
    assert job["allowed_actions"] == ["cancel"]
    answer = service.client.post(f"/v1/jobs/{job['id']}/pause")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_reachable")
    assert service.job(job["id"])["state"] == "RUNNING"
    service.ask(job["id"], "cancel")
    service.wait_for(job["id"], "CANCELLED")


@BOTH
def test_a_running_and_a_waiting_job_are_cancelled_and_their_records_stay(
    service: LeptonService, cluster: str
) -> None:
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


def test_a_job_that_is_stopped_on_lepton_says_so(service: LeptonService) -> None:
    job_id = service.run_until(4)["id"]
    service.on_lepton(job_id).stop()
    ended = service.wait_for(job_id)
    assert (ended["state"], ended["state_reason"]["code"]) == ("CANCELLED", "cancelled_on_cluster")
    assert service.starts(job_id) == ["1"]


def test_what_lepton_refuses_fails_with_its_words(service: LeptonService) -> None:
    words = b'{"code": "InvalidArgument", "message": "resource shape cpu.large is not in node group"}'
    service.lepton.faults.add("status", method="POST", path="/jobs", status=400, body=words)
    job = service.wait_for(service.submit(service.body())["id"])
    assert (job["state"], job["failure"]["class"]) == ("FAILED", "scheduler_rejected")
    assert "resource shape cpu.large is not in node group" in job["failure"]["cause"]


def test_a_secret_goes_by_its_name(service: LeptonService) -> None:
    canary = "canary-4f1c9b7e"
    service.lepton.workspace.secrets["TEAM_HF"] = canary
    job_id = service.submit(service.body(secrets={"HF_TOKEN": "team-hf"}))["id"]
    assert service.wait_for(job_id)["state"] == "SUCCEEDED"
    assert f"a secret of {len(canary)} characters" in service.log(job_id)
    [sent] = [one for one in service.on_lepton(job_id).spec["envs"] if one["name"] == "HF_TOKEN"]
    assert sent == {"name": "HF_TOKEN", "value_from": {"secret_name_ref": "TEAM_HF"}}
    for path in [*service.data_dir.rglob("*"), service.data_dir.parent / "serve.err"]:
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path


def test_a_waiting_job_says_what_for_and_how_many_replicas_are_ready(service: LeptonService) -> None:
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


def test_an_image_that_cannot_be_pulled_is_told(service: LeptonService) -> None:
    service.lepton.workspace.hold_queue = True
    job_id = service.submit(service.body())["id"]
    service.wait_for_reason(job_id, "pending")
    service.on_lepton(job_id).note_event("Warning", "ImagePullBackOff")
    service.on_lepton(job_id).shown = "Starting"
    assert "could not be pulled" in service.wait_for_reason(job_id, "image_pull")["state_reason"]["message"]
    service.on_lepton(job_id).shown = "Failed"
    assert service.wait_for(job_id)["failure"]["class"] == "image_pull"


def test_at_its_time_limit_a_job_saves_and_goes_on(service: LeptonService) -> None:
    job_id = service.run_until(4, resources={"time_limit_minutes": 1})["id"]
    service.wait_for_step(job_id, 4, attempt=2, timeout=90)
    [first, _] = service.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    assert first["failure"]["class"] == "time_limit"
    assert service.starts(job_id) == ["1", "2"]
    service.ask(job_id, "cancel")
    service.wait_for(job_id, "CANCELLED")


def test_a_finished_job_goes_with_all_that_was_kept_of_it(service: LeptonService) -> None:
    job_id = service.submit(service.body())["id"]
    service.wait_for(job_id)
    mirrored = service.data_dir / "lepton" / "mounted" / "jobs" / job_id
    on_storage = service.directory(job_id).parents[1]
    assert mirrored.is_dir()
    assert on_storage.is_dir()
    service.gc(SFT_KEEP_JOBS_DAYS="0.0000001")
    assert not mirrored.exists()
    assert not on_storage.exists()
