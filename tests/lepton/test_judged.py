"""NVIDIA's own SDK looks at the job that the service has made, field by field."""

import json

import pytest

from tests.lepton.parts import LeptonService
from tests.lepton.sdk import Sdk

pytestmark = pytest.mark.slow


def test_the_sdk_sees_the_job_of_the_service(service: LeptonService, sdk: Sdk) -> None:
    service.lepton.workspace.secrets["TEAM_HF"] = "a value"
    job = service.run_until(4, resources={"nodes": 2, "gpus_per_node": 2}, secrets={"HF_TOKEN": "team-hf"})
    lepton_id = f"{job['id']}-1"
    seen = sdk(service.lepton, "job.get", id_or_job=lepton_id)
    assert seen["metadata"]["id"] == job["backend"]["external_id"] == lepton_id
    assert seen["metadata"]["labels"] == {
        "sft-run": lepton_id,
        "sft-job": job["id"],
        "sft-limit-seconds": str(job["resources"]["time_limit_minutes"] * 60),
    }
    spec = seen["spec"]
    assert (spec["completions"], spec["parallelism"], spec["intra_job_communication"]) == (2, 2, True)
    assert (spec["max_failure_retry"], spec["max_job_failure_retry"]) == (0, 0)
    assert spec["resource_shape"] == "cpu.large"
    assert spec["affinity"]["allowed_dedicated_node_groups"] == ["h100-pool-ab12"]
    assert spec["container"]["image"] == "nvcr.io/nvidia/nemo:26.04"
    assert spec["container"]["command"][:2] == ["/bin/bash", "-c"]
    assert (spec["shared_memory_size"], spec["ttl_seconds_after_finished"]) == (65536, 259_200)
    assert spec["log"]["enable_collection"] is True
    [mount] = spec["mounts"]
    workspace = str(service.lepton.directory / "workspace")
    assert (mount["path"], mount["from"], mount["mount_path"]) == ("/", "node-nfs:team", workspace)
    envs = {one["name"]: one for one in spec["envs"]}
    assert envs["HF_TOKEN"]["value"] is None
    assert envs["HF_TOKEN"]["value_from"] == {"secret_name_ref": "TEAM_HF"}
    assert set(envs) >= {"SFT_BUNDLE_PARTS", "SFT_BUNDLE_SHA256", "SFT_BUNDLE_0"}
    # All that was sent is a field of the SDK's: it drops what it does not know.
    sent = service.on_lepton(job["id"]).body
    assert not _missing(sent["spec"], spec)
    assert seen["status"]["state"] == "Running"
    assert lepton_id in [one["metadata"]["id"] for one in sdk(service.lepton, "job.list_all")]
    replicas = sdk(service.lepton, "job.get_replicas", name_or_job=lepton_id)
    assert len(replicas) == 2
    sdk(service.lepton, "job.update", name_or_job=lepton_id, spec={"spec": {"stopped": True}})
    assert service.wait_for(job["id"])["state_reason"]["code"] == "cancelled_on_cluster"


def _missing(sent: object, seen: object, path: str = "") -> list[str]:
    """What was sent and is not seen, by its path."""
    if isinstance(sent, dict) and isinstance(seen, dict):
        found = [(key, value, seen.get(key)) for key, value in sent.items()]
        return [one for key, value, there in found for one in _missing(value, there, f"{path}/{key}")]
    return [] if json.dumps(sent) == json.dumps(seen) or isinstance(sent, list) else [path]
