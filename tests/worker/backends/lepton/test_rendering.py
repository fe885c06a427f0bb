"""The rendered Lepton job matches the golden files and contains no text of the client."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.support.hostile import CANARY, strings
from worker.backends.lepton.rendering import MAX_NAME_CHARACTERS, SUFFIX_CHARACTERS, lepton_name, render
from worker.clusters.profiles import LeptonCluster
from worker.runs.run import Resources, Run

GOLDEN = Path(__file__).parents[3] / "golden" / "lepton"
MOUNT = {"path": "/lustre/team", "from": "node-nfs:lustre", "mount_path": "/workspace"}

GIVEN = {
    "name": "plain",
    "executor": "lepton",
    "workspace": "team-ws",
    "remote_job_dir": "/workspace/sft",
    "mounts": [MOUNT],
    "container_image": "nvcr.io/nvidia/nemo:26.04",
    "resource_shape": "gpu.h100-sxm",
}
PLAIN = LeptonCluster.model_validate(GIVEN)
FULL = LeptonCluster.model_validate(
    {
        **GIVEN,
        "name": "full",
        "local_mount": "/mnt/lustre/team",
        "resource_shape": "gpu.8xh100-sxm",
        "gpus_per_node": 8,
        "nodes": 2,
        "node_group": "h100-pool-ab12",
        "node_reservation": "res-1",
        "shared_memory_size": 131072,
        "image_pull_secrets": ["ngc"],
        "queue": {"priority_class": "mid-4000", "can_be_preempted": True},
        "ttl_seconds_after_finished": 86400,
        "custom_spec": {"user_security_context": {"privileged": False}},
        "python": "/opt/venv/bin/python",
        "pre_launch_commands": "nvidia-smi\nulimit -l unlimited",
        "env_vars": {"NCCL_DEBUG": "WARN", "NOTE": "it's $HOME"},
        "secret_vars": {"WANDB_API_KEY": "WANDB"},
        "secrets": {"team-hf": {"name": "TEAM_HF"}},
    }
)
CONFIG = {"device": "cuda", "seq_length": 4096}
RUN = Run("job-019abc", 1, CONFIG, Resources(nodes=1, gpus_per_node=1, time_limit_minutes=90))
LARGE = Run(
    "job-019abc",
    3,
    CONFIG,
    Resources(nodes=2, gpus_per_node=8, time_limit_minutes=1500),
    secrets={"HF_TOKEN": "team-hf"},
)


@pytest.mark.parametrize(("name", "profile", "run"), [("plain", PLAIN, RUN), ("full", FULL, LARGE)])
def test_a_run_renders_to_the_golden_files(name: str, profile: LeptonCluster, run: Run) -> None:
    submission = render(run, profile)
    body = json.loads(submission.files["job.json"])
    script = body["spec"]["container"]["command"].pop()
    assert script == (GOLDEN / name / "run.sh").read_text()
    assert json.dumps(body, indent=2, sort_keys=True) + "\n" == (GOLDEN / name / "job.json").read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("text", strings(CANARY))
def test_the_body_contains_no_text_of_the_client(text: str) -> None:
    config = {**CONFIG, "logger": {"wandb_project": text}}
    hostile = Run("job-019abc", 3, config, LARGE.resources, secrets=LARGE.secrets)
    assert render(hostile, FULL).files["job.json"] == render(LARGE, FULL).files["job.json"]


NAMES = [
    "job-01a20be35f486d614aefd5.1",
    "job-01a20be35f486d614aefd5.999",
    f"{'x' * 80}.1",
    "9.1",
    "Ü-.1",
    "a_b.c-.1",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_valid_even_with_a_suffix(name: str) -> None:
    made = lepton_name(name)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", made)
    assert len(made) + SUFFIX_CHARACTERS <= MAX_NAME_CHARACTERS


def test_each_attempt_has_a_unique_name() -> None:
    names = [f"job-{'0' * 22}.{number}" for number in range(1, 2000)] + [f"{'x' * 80}.{n}" for n in range(99)]
    assert len({lepton_name(name) for name in names}) == len(names)


def test_a_profile_defaults_to_the_sdks_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_WORKSPACE_ID", "env-ws")
    values = {name: value for name, value in GIVEN.items() if name != "workspace"}
    assert LeptonCluster.model_validate(values).api_url.endswith("/api/v2/workspaces/env-ws")
    monkeypatch.setenv("LEPTON_WORKSPACE_URL", "https://lepton.example.com/ws/")
    assert LeptonCluster.model_validate(values).api_url == "https://lepton.example.com/ws"
    assert PLAIN.api_url == LeptonCluster.model_validate(GIVEN).api_url
    elsewhere = {**values, "url": "https://elsewhere.example.com/ws"}
    assert LeptonCluster.model_validate(elsewhere).api_url == "https://elsewhere.example.com/ws"


INVALID = {
    "workspace is missing": {"workspace": None},
    "sent unencrypted": {"url": "http://lepton.example.com"},
    "has to lie on one of the mounts": {"remote_job_dir": "/root/sft"},
    "nprocs_per_node and gpus_per_node differ": {"nprocs_per_node": 4, "gpus_per_node": 8},
    "/sft": {"remote_job_dir": "/workspace/$(id)"},
    "container_image": {"container_image": "image;id"},
}


@pytest.mark.parametrize("message", INVALID)
def test_an_invalid_profile_is_rejected(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEPTON_WORKSPACE_ID", raising=False)
    values = {**GIVEN, **INVALID[message]}
    with pytest.raises(ValidationError, match=re.escape(message) if message != "/sft" else "absolute path"):
        LeptonCluster.model_validate(values)
