"""The life cycle of a job in a workspace: created, polled, ingested to its end."""

import pytest

from tests.support.lepton.service import LeptonService

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("cluster", ["mounted", "far"])


@BOTH
def test_a_job_on_two_nodes_trains_and_shows_its_results(service: LeptonService, cluster: str) -> None:
    resources = {"nodes": 2, "gpus_per_node": 2}
    job = service.submit(service.body(cluster=cluster, resources=resources))
    job = service.wait_for(job["id"])
    assert (job["state"], job["progress"]["step"], job["progress"]["loss"]) == ("SUCCEEDED", 4, 4.0)
    assert job["backend"]["kind"] == "lepton"
    assert service.starts(job["id"]) == ["1"]
    assert "größe: ééé\nbad byte \ufffd here\n" in service.log(job["id"])
    steps = service.client.get(f"/v1/jobs/{job['id']}/metrics").json()["train"]
    assert [one["step"] for one in steps] == [1, 2, 3, 4]


def test_a_checkpoint_is_downloaded_from_the_mount(service: LeptonService) -> None:
    job = service.wait_for(service.submit(service.body())["id"])
    [saved] = service.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["items"]
    answer = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/{saved['iteration']}/files/__0_0.distcp")
    on_storage = service.directory(job["id"]).parents[1] / "checkpoints" / "iter_0000004" / "__0_0.distcp"
    assert answer.content == on_storage.read_bytes()
    archive = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/{saved['iteration']}/archive")
    assert archive.status_code == 200


def test_without_the_mount_checkpoints_are_listed_and_not_reachable(service: LeptonService) -> None:
    job = service.wait_for(service.submit(service.body(cluster="far"))["id"])
    assert job["state"] == "SUCCEEDED"
    [saved] = service.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["items"]
    assert saved["path"].endswith(f"/sft/jobs/{job['id']}/checkpoints/iter_0000004")
    detail = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/4").json()
    assert {".metadata", "metadata.json", "__0_0.distcp"} <= {file["path"] for file in detail["files"]}
    for way in ("files/metadata.json", "archive"):
        answer = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/4/{way}")
        assert (answer.status_code, answer.json()["code"]) == (409, "not_reachable")
        assert "local_mount" in answer.json()["hint"]


def test_a_job_stopped_on_lepton_is_cancelled(service: LeptonService) -> None:
    job_id = service.run_until(4)["id"]
    service.on_lepton(job_id).stop()
    ended = service.wait_for(job_id)
    assert (ended["state"], ended["state_reason"]["code"]) == ("CANCELLED", "cancelled_on_cluster")
    assert service.starts(job_id) == ["1"]


def test_a_secret_is_sent_by_name(service: LeptonService) -> None:
    canary = "canary-4f1c9b7e"
    service.lepton.workspace.secrets["TEAM_HF"] = canary
    job_id = service.submit(service.body(secrets={"HF_TOKEN": "team-hf"}))["id"]
    assert service.wait_for(job_id)["state"] == "SUCCEEDED"
    assert f"a secret of {len(canary)} characters" in service.log(job_id)
    [sent] = [one for one in service.on_lepton(job_id).spec["envs"] if one["name"] == "HF_TOKEN"]
    assert sent == {"name": "HF_TOKEN", "value_from": {"secret_name_ref": "TEAM_HF"}}
    [entry] = service.client.get("/v1/audit", params={"target": "team-hf"}).json()["items"]
    assert (entry["action"], entry["actor"], entry["details"]["job"]) == ("secret.use", "admin", job_id)
    for path in [*service.data_dir.rglob("*"), service.data_dir.parent / "serve.err"]:
        assert not path.is_file() or canary.encode() not in path.read_bytes(), path
