"""NVIDIA's own SDK reads the service's job, field by field."""

from pathlib import Path

import pytest

from tests.support.lepton.bare import bare
from tests.support.lepton.sdk import Sdk
from tests.support.lepton.server.server import LeptonServer
from tests.support.lepton.service import LeptonService
from worker.backends.lepton.states import ARCHIVED, REQUEUED_STATES, STATES

# The first test includes the installation of the SDK.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
    # The SDK drops unknown fields, so all sent fields are known to it.
    sent = service.on_lepton(job["id"]).body
    assert not _missing(sent["spec"], spec)
    assert seen["status"]["state"] == "Running"
    assert lepton_id in [one["metadata"]["id"] for one in sdk(service.lepton, "job.list_all")]
    replicas = sdk(service.lepton, "job.get_replicas", name_or_job=lepton_id)
    assert len(replicas) == 2
    # While it runs. The SDK cannot follow the first replica's log, which has bytes that are not text.
    [_, second] = [one["metadata"]["id"] for one in replicas]
    follow = {"id_or_job": lepton_id, "replica": second, "until": "characters"}
    assert "a secret of 7 characters" in sdk(service.lepton, "job.get_log", **follow)
    sdk(service.lepton, "job.update", name_or_job=lepton_id, spec={"spec": {"stopped": True}})
    assert service.wait_for(job["id"])["state_reason"]["code"] == "cancelled_on_cluster"


def test_the_sdk_sees_all_fields_of_a_profile(lepton: LeptonServer, sdk: Sdk, tmp_path: Path) -> None:
    on = bare(
        lepton, tmp_path,
        node_reservation="res-1",
        image_pull_secrets=["ngc", "team-registry"],
        queue={"priority_class": "mid-4000", "can_be_preempted": True, "can_preempt": False},
        custom_spec={"user_security_context": {"privileged": False}, "time_schedule": {"start_at": 1}},
        env_vars={"NCCL_DEBUG": "WARN"},
        secret_vars={"WANDB_API_KEY": "WANDB"},
    )  # fmt: skip
    sent = on.submitted(nodes=2).body
    seen = sdk(lepton, "job.get", id_or_job="job-1-1")
    assert not _missing(sent, seen)
    spec = seen["spec"]
    assert spec["image_pull_secrets"] == ["ngc", "team-registry"]
    assert spec["queue_config"] == {
        "priority_class": "mid-4000", "can_be_preempted": True, "can_preempt": False,
    }  # fmt: skip
    assert spec["reservation_config"]["reservation_id"] == "res-1"
    assert spec["user_security_context"]["privileged"] is False
    assert [one["name"] for one in spec["envs"]][:2] == ["NCCL_DEBUG", "WANDB_API_KEY"]


def test_an_unknown_field_is_detected(lepton: LeptonServer, sdk: Sdk, tmp_path: Path) -> None:
    on = bare(lepton, tmp_path, custom_spec={"container": {}, "fancy": 1})
    sent = on.submitted().body
    sent["spec"]["mounts"][0]["colour"] = "red"
    missing = _missing(sent, sdk(lepton, "job.get", id_or_job="job-1-1"))
    assert missing == ["/spec/fancy", "/spec/mounts/0/colour"]


def test_the_table_of_states_matches_the_sdk(lepton: LeptonServer, sdk: Sdk) -> None:
    known = set(sdk(lepton, "states"))
    assert {*STATES, ARCHIVED, "UNK"} == known
    assert known >= REQUEUED_STATES


def _missing(sent: object, seen: object, path: str = "") -> list[str]:
    """Return the paths of sent fields that are not seen. The SDK shows further fields as null."""
    if isinstance(sent, dict) and isinstance(seen, dict):
        found = [(key, value, seen.get(key)) for key, value in sent.items()]
    elif isinstance(sent, list) and isinstance(seen, list) and len(sent) == len(seen):
        found = [(str(at), *both) for at, both in enumerate(zip(sent, seen, strict=True))]
    else:
        return [] if sent == seen else [path]
    return [one for key, value, there in found for one in _missing(value, there, f"{path}/{key}")]
