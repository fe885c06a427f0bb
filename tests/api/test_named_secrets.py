"""Who may use a secret is checked each time that it is handed out: the profile may have changed since."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.process import forget_settings
from tests.support.toml import table
from worker.auth import keys
from worker.auth.roles import Role
from worker.db.models import Job
from worker.db.session import writing
from worker.jobs import queries
from worker.lifecycle import recovery, submit
from worker.states import JobState, Reason

Body = dict[str, Any]
CANARY = "canary-4f1c9b7e"
POINTER = "/job/spec/secrets/HF_TOKEN"


@pytest.fixture
def allow(data_dir: Path, environment: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that says which projects may use the secret."""

    def write(*projects: str) -> None:
        profile = {
            "executor": "slurm", "tunnel": "local", "remote_job_dir": str(data_dir / "remote"),
            "roots": [str(data_dir / "inputs")],
            "secrets": {"team-hf": {"env": "TEAM_HF", "projects": list(projects)}},
        }  # fmt: skip
        (data_dir / "clusters.toml").write_text(table("far", profile))
        forget_settings()

    environment.setenv("TEAM_HF", CANARY)
    write("team")
    return write


@pytest.fixture
def team(client: TestClient) -> TestClient:
    """Return a client of a submitter of the project `team`."""
    _key, secret = keys.create("anna", Role.SUBMITTER, "team")
    return TestClient(client.app, headers={"Authorization": f"Bearer {secret}"})


@pytest.fixture
def body(good: Body) -> Body:
    return {**good, "cluster": "far", "secrets": {"HF_TOKEN": "team-hf"}}


def make(client: TestClient, body: Body, state: JobState = JobState.SUBMITTING) -> str:
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    with writing() as session:
        session.get_one(Job, answer.json()["id"]).state = state
    return str(answer.json()["id"])


def uses(client: TestClient) -> list[tuple[str, str, int]]:
    entries = client.get("/v1/audit", params={"action": "secret.use"}).json()["items"]
    return [(one["target"], one["outcome"], one["details"]["attempt"]) for one in entries]


def require_rejected(client: TestClient, job_id: str, data_dir: Path) -> None:
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["failure"]["class"]) == ("FAILED", "scheduler_rejected")
    assert "'team-hf'" in job["failure"]["cause"]
    assert "project" in job["failure"]["cause"]
    assert "operator" in job["failure"]["recovery"]
    assert not list((data_dir / "remote" / "jobs" / job_id).rglob("secrets.sh"))
    assert CANARY not in str(job) + client.get(f"/v1/jobs/{job_id}/events").text


@pytest.mark.parametrize(
    ("state", "action", "change"),
    [
        (JobState.FAILED, "retry", None),
        (JobState.FAILED, "retry", {"overrides": ["train.train_iters=7"]}),
        (JobState.PAUSED, "resume", None),
    ],
)
def test_no_further_attempt_gets_a_secret_that_was_closed(
    client: TestClient,
    team: TestClient,
    body: Body,
    allow: Callable[..., None],
    state: JobState,
    action: str,
    change: Body | None,
) -> None:
    job = make(team, body, state)
    allow("others")
    for caller in (team, client):  # the job's project counts, whoever asks
        answer = caller.post(f"/v1/jobs/{job}/{action}", json=change)
        errors = [(one["pointer"], one["code"]) for one in answer.json()["errors"]]
        assert (answer.status_code, errors) == (422, [(POINTER, "unknown_secret")])
    assert queries.get(job).state is state
    outcomes = [one["outcome"] for one in client.get("/v1/audit", params={"target": job}).json()["items"]]
    assert outcomes == ["invalid_spec", "invalid_spec", "ok"]
    allow("team")
    assert team.post(f"/v1/jobs/{job}/{action}", json=change).status_code == 202


@pytest.mark.parametrize(("state", "action"), [(JobState.FAILED, "retry"), (JobState.PAUSED, "resume")])
def test_an_operator_gets_no_secret_with_the_job_of_an_admin(
    client: TestClient, body: Body, allow: Callable[..., None], state: JobState, action: str
) -> None:
    job = make(client, body, state)
    _key, secret = keys.create("olga", Role.OPERATOR, "default")
    operator = TestClient(client.app, headers={"Authorization": f"Bearer {secret}"})
    answer = operator.post(f"/v1/jobs/{job}/{action}")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_secret")
    assert client.post(f"/v1/jobs/{job}/{action}").status_code == 202


def test_a_submission_gets_no_secret_that_was_closed(
    client: TestClient, team: TestClient, body: Body, allow: Callable[..., None], data_dir: Path
) -> None:
    job = make(team, body)
    allow("others")
    submit.submit(job)
    require_rejected(client, job, data_dir)
    assert uses(client) == [("team-hf", "scheduler_rejected", 1)]


def test_nor_does_one_that_is_repeated(
    client: TestClient,
    team: TestClient,
    body: Body,
    allow: Callable[..., None],
    data_dir: Path,
    environment: pytest.MonkeyPatch,
) -> None:
    environment.delenv("TEAM_HF")
    job = make(team, body)
    submit.submit(job)
    assert queries.get(job).reason_code == "backend_unavailable"
    environment.setenv("TEAM_HF", CANARY)
    allow("others")
    submit.submit(job)
    require_rejected(client, job, data_dir)


def test_nor_does_a_recovered_job(
    client: TestClient, team: TestClient, body: Body, allow: Callable[..., None], data_dir: Path
) -> None:
    job = make(team, body, JobState.RUNNING)
    allow("others")
    assert recovery.recover(queries.get(job), Reason("preempted", "The cluster needed the node."))
    submit.submit(job)
    require_rejected(client, job, data_dir)
    assert uses(client) == [("team-hf", "scheduler_rejected", 2)]


def test_an_admin_may_use_all_secrets_as_long_as_the_key_is_valid(
    client: TestClient, body: Body, allow: Callable[..., None], data_dir: Path
) -> None:
    key, secret = keys.create("root", Role.ADMIN, "ops")
    root = TestClient(client.app, headers={"Authorization": f"Bearer {secret}"})
    change = {"overrides": ["train.train_iters=7"]}
    retried, waiting = make(root, body, JobState.FAILED), make(root, body)
    assert root.post(f"/v1/jobs/{retried}/retry", json=change).status_code == 202
    submit.submit(waiting)
    assert uses(client) == [("team-hf", "ok", 1)]
    keys.revoke(key.id)
    late = make(client, {**body, "name": "late"})
    submit.submit(late)
    assert uses(client)[0] == ("team-hf", "ok", 1)  # of another admin
    with writing() as session:
        session.get_one(Job, retried).state = JobState.SUBMITTING
    submit.submit(retried)
    require_rejected(client, retried, data_dir)
