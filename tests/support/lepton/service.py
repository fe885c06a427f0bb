"""A service whose clusters are workspaces of a Lepton server on this machine."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.inputs import make_inputs
from tests.support.lepton.server.sandbox import obstacle
from tests.support.lepton.server.server import LeptonServer
from tests.support.lepton.server.workspace import ServerJob
from tests.support.service import Service
from tests.support.stand_in.control import starts_of, with_mode
from tests.support.toml import table
from tests.support.waiting import wait_until

SETTINGS = {
    "SFT_DEFAULT_CLUSTER": "mounted",
    "SFT_POLL_INTERVAL_SECONDS": "0.3",
    "SFT_STALE_AFTER_SECONDS": "3",
    # Longer than any test waits, so that no run is declared lost on a slow machine.
    "SFT_LOST_AFTER_SECONDS": "600",
}


# The profile of NVIDIA's reference of the step: two nodes of eight H100.
SEED = {
    "nodes": 2,
    "gpus_per_node": 8,
    "gpu_type": "H100",
    "gpu_memory_gib": 80,
    "resource_shape": "gpu.8xh100-sxm",
}


class LeptonService(Service):
    """A service and its workspace."""

    lepton: LeptonServer
    token_file: Path

    def kill(self) -> None:
        """Kill the service with all its processes; the runs continue."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            process.kill()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def restart(self, **settings: str) -> None:
        """Start a new service on the same directory."""
        fresh = LeptonService(self.data_dir, **{**SETTINGS, **settings})
        self.client.close()
        self.process, self.client = fresh.process, fresh.client

    def gc(self, **settings: str) -> None:
        """Run `sft gc` once."""
        command = [sys.executable, "-m", "cli", "gc", "--data-dir", str(self.data_dir)]
        subprocess.run(command, env={**os.environ, **settings}, check=True, timeout=60)

    def body(self, mode: str = "train", cluster: str = "mounted", **more: Any) -> dict[str, Any]:
        return with_mode(make_inputs(self.data_dir), mode, cluster=cluster, **more)

    def run_until(
        self, step: int, mode: str = "hold", cluster: str = "mounted", **more: Any
    ) -> dict[str, Any]:
        """Return a job whose run has reached a step and holds there."""
        return self.wait_for_step(self.submit(self.body(mode, cluster, **more))["id"], step)

    def wait_for_step(self, job_id: str, step: int, attempt: int = 1, timeout: float = 60) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert not job["terminal"], job
            return job if job["attempt"] == attempt and (job["progress"]["step"] or 0) >= step else None

        return wait_until(reached, timeout, f"step {step} of attempt {attempt}")

    def wait_for_reason(self, job_id: str, code: str) -> dict[str, Any]:
        """Wait until the job's state has this reason; return the job."""

        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if (job["state_reason"] or {}).get("code") == code else None

        return wait_until(reached, what=f"the reason {code}")

    def ask(self, job_id: str, action: str, status: int = 202) -> dict[str, Any]:
        answer = self.client.post(f"/v1/jobs/{job_id}/{action}")
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def log(self, job_id: str, **parameters: Any) -> str:
        text: str = self.client.get(
            f"/v1/jobs/{job_id}/logs", params={"limit": 1 << 20, **parameters}
        ).json()["text"]
        return text

    def on_lepton(self, job_id: str, attempt: int = 1) -> ServerJob:
        """Return the workspace's job of an attempt."""
        return self.lepton.workspace.job(f"{job_id}-{attempt}")

    def directory(self, job_id: str, attempt: int = 1) -> Path:
        """Return the directory of an attempt on the storage."""
        return self.lepton.storage / "team" / "sft" / "jobs" / job_id / "attempts" / str(attempt)

    def starts(self, job_id: str) -> list[str]:
        """Return the numbers of the started attempts, one for each start (tests/support/stand_in)."""
        return starts_of(self.lepton.storage / "team" / "sft" / "jobs" / job_id)


def start_service(
    lepton: LeptonServer,
    directory: Path,
    python: Path,
    usual: dict[str, Any] | None = None,
    **settings: str,
) -> LeptonService:
    """Start a service on an empty directory. usual: changed fields of all its profiles."""
    data_dir = directory / "data"
    data_dir.mkdir()
    token = directory / "token"
    token.write_text(lepton.token)
    (data_dir / "clusters.toml").write_text(profiles(lepton, data_dir, python, token, usual or {}))
    service = LeptonService(data_dir, **{**SETTINGS, **settings})
    service.lepton, service.token_file = lepton, token
    return service


def profiles(lepton: LeptonServer, data_dir: Path, python: Path, token: Path, more: dict[str, Any]) -> str:
    """Return clusters.toml. `mounted` sees the storage under another path; `far` does not see it."""
    mounted = {"extends": "far", "local_mount": str(lepton.storage / "team")}
    patient = {"extends": "mounted", "settle_seconds": 5.0}
    seed = {"extends": "mounted", "roots": [str(lepton.directory / "workspace" / "data")], **SEED}
    far = {**usual(lepton, data_dir, python, token), **more}
    tables = {"far": far, "mounted": mounted, "patient": patient, "lepton_sft_megatron_bridge": seed}
    return "\n".join(table(name, values) for name, values in tables.items())


def usual(lepton: LeptonServer, data_dir: Path, python: Path, token: Path) -> dict[str, Any]:
    """Return the fields of the profile `far`."""
    mount = lepton.directory / "workspace"
    return {
        "executor": "lepton",
        "url": lepton.url,
        "token": {"file": str(token)},
        "poll_seconds": 0.3,
        "remote_job_dir": str(mount / "sft"),
        "mounts": [{"path": "/", "from": "node-nfs:team", "mount_path": str(mount)}],
        "container_image": "nvcr.io/nvidia/nemo:26.04",
        "resource_shape": "cpu.large",
        "node_group": "h100-pool-ab12",
        "python": str(python),
        "roots": [str(data_dir / "inputs")],
        "max_nodes": 4,
        "max_gpus_per_node": 8,
        "settle_seconds": 0.5,
        "unseen_seconds": 2.0,
        "pre_launch_commands": ['echo "a secret of ${#HF_TOKEN} characters"'],
        "secrets": {"team-hf": {"name": "TEAM_HF", "projects": ["default"]}},
    }


def new_server() -> LeptonServer:
    if why_not := obstacle():
        (pytest.fail if "CI" in os.environ else pytest.skip)(why_not)
    return LeptonServer()
