"""A service on a real Slurm, `near` (local commands) and `far` (over SSH)."""

import os
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo.slurm.cluster import DemoSlurm
from demo.slurm.install import missing_requirement
from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.stand_in.control import starts_of, with_mode
from tests.support.toml import table
from tests.support.waiting import wait_until

# Name of a profile -> fields that differ from the usual profile.
PROFILES: dict[str, dict[str, Any]] = {
    "near": {},
    "exclusive": {"exclusive": True},
    "no-requeue": {"exclusive": True, "partition": "lowcancel"},
    "short": {"partition": "short", "time": "00:01:00", "max_time": "00:01:00"},
    "once": {"partition": "short", "time": "00:01:00", "max_recoveries": 0},
    "no-partition": {"partition": "nowhere"},
    "no-account": {"account": "nobody"},
    "no-qos": {"qos": "nothing"},
    "no-cpu": {"cpus_per_task": 4096},
    "no-memory": {"mem": "900G"},
    "no-option": {"mem": "lots"},
    "no-feature": {"constraint": "quantum"},
    "no-reservation": {"reservation": "nothing"},
    "too-long": {"partition": "short"},
    "down": {"partition": "down"},
    "not-there": {"slurm_conf": "/dev/null"},
}

SETTINGS = {
    "SFT_DEFAULT_CLUSTER": "near",
    "SFT_POLL_INTERVAL_SECONDS": "0.3",
    "SFT_REQUEUE_GRACE_SECONDS": "20",
    "SFT_LOST_AFTER_SECONDS": "3",
}


class SlurmService(Service):
    """A service, its cluster, and the directory of its runs."""

    slurm: DemoSlurm
    root: Path

    def again(self, **settings: str) -> "SlurmService":
        """Return a new service on the same directory, after the end of this one."""
        fresh = SlurmService(self.data_dir, **{**SETTINGS, **settings})
        fresh.slurm, fresh.root = self.slurm, self.root
        return fresh

    def body(self, mode: str = "train", cluster: str = "near", **more: Any) -> dict[str, Any]:
        return with_mode(make_inputs(self.data_dir), mode, cluster=cluster, **more)

    def run_until(self, step: int, mode: str = "hold", cluster: str = "near", **more: Any) -> dict[str, Any]:
        """Return a job whose run has reached a step and holds there."""
        job = self.submit(self.body(mode, cluster, **more))
        return self.wait_for_step(job["id"], step)

    def wait_for_step(self, job_id: str, step: int, attempt: int = 1, timeout: float = 90) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert not job["terminal"], job
            return job if job["attempt"] == attempt and (job["progress"]["step"] or 0) >= step else None

        return wait_until(reached, timeout, f"step {step} of attempt {attempt}")

    def ask(self, job_id: str, action: str, status: int = 202) -> dict[str, Any]:
        answer = self.client.post(f"/v1/jobs/{job_id}/{action}")
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
        return items

    def starts(self, job_id: str) -> list[str]:
        """Return the numbers of the started attempts, one for each start (tests/support/stand_in)."""
        return starts_of(self.root / "jobs" / job_id)

    def directory(self, job_id: str, attempt: int = 1) -> Path:
        return self.root / "jobs" / job_id / "attempts" / str(attempt)


def start_service(
    slurm: DemoSlurm,
    directory: Path,
    python: Path,
    secret_file: Path,
    usual: dict[str, Any] | None = None,
    **settings: str,
) -> SlurmService:
    """Start a service on an empty directory. usual: changed fields of all its profiles."""
    data_dir, root = directory / "data", directory / "cluster"
    data_dir.mkdir()
    root.mkdir()
    (data_dir / "clusters.toml").write_text(profiles(slurm, root, data_dir, python, secret_file, usual or {}))
    service = SlurmService(data_dir, **{**SETTINGS, **settings})
    service.slurm, service.root = slurm, root
    return service


def profiles(
    slurm: DemoSlurm, root: Path, data_dir: Path, python: Path, secret_file: Path, more: dict[str, Any]
) -> str:
    """Return the text of clusters.toml."""
    usual = {
        "executor": "slurm",
        "remote_job_dir": str(root),
        "python": str(python),
        "roots": [str(data_dir / "inputs")],
        "slurm_conf": str(slurm.conf),
        "mem": "1G",
        "max_nodes": 9,
        "settle_seconds": 2.0,
        "secrets": {"team-hf": {"file": str(secret_file), "projects": ["default"]}},
        **more,
    }
    ssh = {
        "tunnel": "ssh",
        "host": "127.0.0.1",
        "port": slurm.ssh_port,
        "user": "root",
        "identity": str(slurm.ssh_key),
        "known_hosts": str(slurm.known_hosts),
    }
    here = {"roots": usual["roots"], "python": usual["python"]}
    own = {"_usual": usual, "here": here}
    inherited = {name: {"extends": "_usual", **table} for name, table in {**PROFILES, "far": ssh}.items()}
    return "\n".join(table(name, values) for name, values in {**own, **inherited}.items())


def run_environment(service: SlurmService, job_id: str) -> str:
    """Return the environments of the processes of a job's run."""
    directory = str(service.root / "jobs" / job_id)
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            continue
        if environment.get("SFT_RUN", "").startswith(directory):
            found.append(str(environment))
    return "\n".join(found)


def miss_the_end(service: SlurmService, mode: str, stand_in: Path) -> str:
    """Return the id of a job whose run ends and is forgotten while no service runs."""
    job_id = service.run_until(4, mode)["id"]
    service.stop()
    if mode == "wait":
        (service.directory(job_id) / "go").touch()
    else:
        external_id = (service.directory(job_id) / "external_id").read_text().strip()
        service.slurm.run("scancel", "--signal=KILL", "--full", external_id)
    wait_for_forgetting(service)
    return job_id


def wait_for_forgetting(service: SlurmService) -> None:
    """Wait until the cluster has forgotten all jobs."""
    shown = ("squeue", "--noheader", "--states=all")
    wait_until(lambda: service.slurm.run(*shown).stdout.strip() == "", 120, "the cluster to forget")


def new_directory() -> Path:
    """Return a directory outside pytest's own: the users of jobs and database need access to it."""
    if why_not := missing_requirement():
        (pytest.fail if "CI" in os.environ else pytest.skip)(why_not)
    path = Path(tempfile.mkdtemp(prefix="sft-slurm-"))
    path.chmod(0o755)
    return path
