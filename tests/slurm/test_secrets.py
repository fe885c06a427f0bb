"""Secrets reach a run's environment, but no script, plan, database, process list, log or event."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.slurm_service import SlurmService, run_environment
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

NAMED = {"secrets": {"HF_TOKEN": "team-hf"}}


@pytest.mark.parametrize("cluster", ["near", "far"])
def test_a_secret_is_in_the_run_and_nowhere_else(on_slurm: SlurmService, canary: str, cluster: str) -> None:
    planned = on_slurm.client.post("/v1/jobs:plan", json=on_slurm.body(cluster=cluster, **NAMED))
    assert planned.status_code == 200
    job_id = on_slurm.run_until(4, cluster=cluster, **NAMED)["id"]
    assert canary in run_environment(on_slurm, job_id)
    kept = on_slurm.directory(job_id) / "secrets.sh"
    assert kept.stat().st_mode & 0o777 == 0o600
    listed = subprocess.run(["ps", "-ww", "axo", "args"], capture_output=True, text=True, check=True).stdout
    assert canary not in listed
    assert holding(canary, on_slurm) == [kept]
    on_slurm.ask(job_id, "pause")
    on_slurm.wait_for(job_id, "PAUSED")
    wait_until(lambda: not kept.exists(), what="the removal of the file")
    answers = [planned.text] + [
        on_slurm.client.get(f"/v1/jobs/{job_id}{part}").text
        for part in ("", "/events", "/attempts", "/logs", "/logs?rank=0", "/metrics", "/checkpoints")
    ]
    assert not any(canary in text for text in answers)
    assert holding(canary, on_slurm) == []
    on_slurm.ask(job_id, "cancel")


def holding(canary: str, service: SlurmService) -> list[Path]:
    """Return files of the service, its jobs and Slurm (state, spool, logs, database) that hold the secret."""
    slurm = service.slurm.directory
    assert {"state", "spool", "log", "mariadb"} <= {path.name for path in slurm.iterdir()}
    return [path for place in (service.data_dir.parent, slurm) for path in files_with(canary, place)]


def files_with(text: str, place: Path) -> list[Path]:
    """Return files that hold a text, except the service's own source of the secret."""
    found = subprocess.run(["grep", "-rlaF", text, str(place)], capture_output=True, text=True, check=False)
    return [Path(line) for line in found.stdout.splitlines() if not line.endswith("team-hf.secret")]


def test_a_secret_of_another_project_is_unknown(on_slurm: SlurmService) -> None:
    key = on_slurm.client.post(
        "/v1/keys", json={"name": "eve", "role": "submitter", "project": "other"}
    ).json()
    headers = {"Authorization": f"Bearer {key['key']}"}
    for name in ("team-hf", "nothing"):
        body = on_slurm.body(secrets={"HF_TOKEN": name})
        answer = on_slurm.client.post("/v1/jobs", json=body, headers=headers)
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["code"]) == (422, "unknown_secret")
        assert error["hint"] == "Your secrets on this cluster: none."


@pytest.mark.parametrize(
    "variable", ["LD_PRELOAD", "PATH", "PYTHONPATH", "BASH_ENV", "a", "A B", "A=B", "SLURM_JOB_ID", ""]
)
def test_a_secret_cannot_set_a_reserved_variable(on_slurm: SlurmService, variable: str) -> None:
    answer = on_slurm.client.post("/v1/jobs", json=on_slurm.body(secrets={variable: "team-hf"}))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "not_a_variable")


def test_a_job_waits_for_a_missing_secret_file(on_slurm: SlurmService, secret_file: Path) -> None:
    aside = secret_file.with_suffix(".aside")
    secret_file.rename(aside)
    job_id = on_slurm.submit(on_slurm.body(**NAMED))["id"]

    def unavailable() -> dict[str, Any] | None:
        reason: dict[str, Any] | None = on_slurm.job(job_id)["state_reason"]
        return reason if reason and reason["code"] == "backend_unavailable" else None

    assert str(secret_file) in wait_until(unavailable, what="a reason")["message"]
    aside.rename(secret_file)
    assert on_slurm.wait_for(job_id)["state"] == "SUCCEEDED"


@pytest.mark.parametrize("cluster", ["near", "down"])
def test_the_service_removes_the_secrets_of_a_cancelled_run(on_slurm: SlurmService, cluster: str) -> None:
    job_id = on_slurm.submit(on_slurm.body("hold", cluster, **NAMED))["id"]
    on_slurm.wait_for(job_id, "RUNNING" if cluster == "near" else "QUEUED")
    assert (on_slurm.directory(job_id) / "secrets.sh").exists()
    on_slurm.ask(job_id, "cancel")
    on_slurm.wait_for(job_id)
    assert not (on_slurm.directory(job_id) / "secrets.sh").exists()
