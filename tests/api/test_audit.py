"""The audit log: every change has an entry, every rejected attempt has one, and nobody changes them."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from fastapi.testclient import TestClient
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.support.process import forget_settings
from tests.support.toml import table
from tests.support.torch_files import BACKEND, RUN_CONFIG, index, plain
from tests.support.waiting import wait_until
from worker.auth import audit, keys
from worker.auth.roles import Role
from worker.clock import utcnow
from worker.db.models import AuditEntry, Checkpoint, Job
from worker.db.session import writing
from worker.lifecycle import submit
from worker.states import JobState

Body = dict[str, Any]

# Requests that plan or inspect, and change nothing.
HARMLESS = {"POST /v1/jobs:plan", "POST /v1/datasets:inspect"}
CHANGES = {
    "POST /v1/keys": "key.create",
    "POST /v1/keys/{key_id}/revoke": "key.revoke",
    "POST /v1/jobs": "job.create",
    "POST /v1/jobs/{job_id}/cancel": "job.cancel",
    "POST /v1/jobs/{job_id}/pause": "job.pause",
    "POST /v1/jobs/{job_id}/resume": "job.resume",
    "POST /v1/jobs/{job_id}/retry": "job.retry",
    "POST /v1/jobs/{job_id}/checkpoints/{iteration}/export": "job.export",
    "PUT /v1/projects/{project}/limits": "limits.change",
    "DELETE /v1/projects/{project}/limits": "limits.change",
}
# The state of the job in which the action is possible.
STATES = {"pause": JobState.RUNNING, "resume": JobState.PAUSED, "retry": JobState.FAILED}

CHECKPOINT = {
    ".metadata": index({"weights": ("__0_0.distcp", 0, 7)}), "metadata.json": BACKEND,
    "__0_0.distcp": b"weights", "run_config.yaml": RUN_CONFIG, "train_state.pt": plain({}),
}  # fmt: skip


def entries(client: TestClient, **filters: Any) -> list[Body]:
    answer = client.get("/v1/audit", params=filters)
    assert answer.status_code == 200, answer.text
    found: list[Body] = answer.json()["items"]
    return found


@pytest.fixture
def job_id(client: TestClient, good: Body) -> str:
    """Return a job with a complete checkpoint of iteration 4."""
    made: str = client.post("/v1/jobs", json=good).json()["id"]
    with writing() as session:
        path = Path(session.get_one(Job, made).config["checkpoint"]["save"]) / "iter_0000004"
        path.mkdir(parents=True)
        for name, content in CHECKPOINT.items():
            (path / name).write_bytes(content)
        files = [{"path": name, "bytes": len(content)} for name, content in CHECKPOINT.items()]
        facts = {"path": str(path), "bytes": 1, "files": files, "saved_at": utcnow()}
        session.add(Checkpoint(job_id=made, iteration=4, attempt=1, **facts))
    return made


@pytest.fixture
def send(client: TestClient, good: Body, job_id: str) -> Callable[..., Any]:
    """Return a function that sends a request of CHANGES."""
    victim, _secret = keys.create("victim", Role.VIEWER, "team")
    bodies = {
        "POST /v1/jobs": good,
        "POST /v1/keys": {"name": "anna", "role": "viewer", "project": "team"},
        "PUT /v1/projects/{project}/limits": {"live_jobs": 8},
    }

    def call(route: str, secret: str | None = None, **headers: str) -> Any:
        method, path = route.split()
        own = {"Authorization": f"Bearer {secret}"} if secret else {}
        url = path.format(job_id=job_id, key_id=victim.id, iteration=4, project="team")
        body = {"json": bodies[route]} if route in bodies else {}
        return client.request(method, url, headers={**headers, **own}, **body)

    return call


def set_state(job_id: str, state: JobState) -> None:
    with writing() as session:
        session.get_one(Job, job_id).state = state


# -- each change -----------------------------------------------------------------------------------


def test_every_route_that_changes_something_is_audited(client: TestClient) -> None:
    document = client.get("/openapi.json").json()["paths"]
    offered = {f"{method.upper()} {path}" for path, methods in document.items() for method in methods}
    changing = {route for route in offered if not route.startswith("GET")}
    assert changing - HARMLESS == set(CHANGES)
    assert {route for route in offered if "/audit" in route} == {"GET /v1/audit"}


@pytest.mark.parametrize("route", CHANGES)
def test_a_change_leaves_an_entry(
    client: TestClient, send: Callable[..., Any], job_id: str, route: str
) -> None:
    set_state(job_id, STATES.get(route.rpartition("/")[2], JobState.QUEUED))
    before = {one["id"] for one in entries(client)}
    answer = send(route, **{"X-Request-ID": "portal-7"})
    assert answer.is_success, answer.text
    found = [one for one in entries(client) if one["id"] not in before]
    [entry] = [one for one in found if one["action"] == CHANGES[route]]
    assert {one["outcome"] for one in found} == {"ok"}
    assert entry.pop("at")
    assert entry.pop("id").startswith("audit-")
    assert entry.pop("key_id").startswith("key-")
    assert entry.pop("target") in (job_id, "team", answer.json().get("id"))
    # Else the change has no entry of its own, and this one was written after it.
    assert "changed" not in entry.pop("details")
    assert entry == {
        "action": CHANGES[route], "outcome": "ok", "actor": "admin", "actor_project": "default",
        "role": "admin", "project": "default" if "jobs" in route else "team", "address": "testclient",
        "request_id": "portal-7",
    }  # fmt: skip


@pytest.mark.parametrize("route", CHANGES)
def test_a_rejected_attempt_leaves_an_entry(
    client: TestClient, send: Callable[..., Any], job_id: str, route: str
) -> None:
    viewer, secret = keys.create("eve", Role.VIEWER, "default")
    assert send(route, secret).status_code == 403
    [entry] = entries(client, actor="eve")
    assert (entry["action"], entry["outcome"], entry["key_id"]) == (CHANGES[route], "forbidden", viewer.id)
    assert (entry["role"], entry["project"], entry["address"]) == ("viewer", "default", "testclient")
    assert (job_id if "job_id" in route else None) in (entry["target"], None)


@pytest.mark.parametrize(
    ("route", "status", "outcome"),
    [
        ("POST /v1/jobs/{job_id}/resume", 409, "illegal_action"),
        ("POST /v1/jobs/job-none/cancel", 404, "not_found"),
        ("POST /v1/keys/key-none/revoke", 404, "not_found"),
        ("POST /v1/jobs/{job_id}/checkpoints/9/export", 404, "not_found"),
        ("POST /v1/jobs/{job_id}/checkpoints/-1/export", 422, "invalid_request"),
    ],
)
def test_the_outcome_is_the_code_of_the_error(
    client: TestClient, send: Callable[..., Any], route: str, status: int, outcome: str
) -> None:
    answer = send(route)
    assert (answer.status_code, answer.json()["code"]) == (status, outcome)
    entry = entries(client)[0]
    assert (entry["outcome"], entry["request_id"]) == (outcome, answer.json()["request_id"])


def test_an_invalid_job_leaves_an_entry_without_its_content(client: TestClient, good: Body) -> None:
    client.post("/v1/jobs", json={**good, "overrides": ["logger.comet_api_key=hunter2"]})
    client.post("/v1/jobs", json={**good, "name": "hunter2 hunter2"})
    client.post("/v1/jobs/hf_" + "a1" * 17 + "/cancel")
    found = entries(client, action="job.create")
    assert [one["outcome"] for one in found] == ["invalid_request", "invalid_spec"]
    assert entries(client)[0]["target"] == "***"
    assert "hunter2" not in str(found)


def test_a_repeated_request_changes_nothing_and_says_so(
    client: TestClient, good: Body, send: Callable[..., Any]
) -> None:
    for _ in range(2):
        client.post("/v1/jobs", json=good, headers={"Idempotency-Key": "one"})
        send("POST /v1/keys/{key_id}/revoke")
    for action in ("job.create", "key.revoke"):
        repeated, first = entries(client, action=action)[:2]
        assert (repeated["outcome"], repeated["details"]) == ("ok", {"changed": False})
        assert "changed" not in first["details"]


def test_requests_without_a_valid_key_and_reads_leave_no_entry(client: TestClient, good: Body) -> None:
    before = entries(client)
    for key in ("", "Bearer sft_wrong"):
        assert client.post("/v1/jobs", json=good, headers={"Authorization": key}).status_code == 401
    client.post("/v1/jobs:plan", json=good)
    client.get("/v1/keys")
    assert entries(client) == before


def test_a_change_that_is_rolled_back_leaves_the_entry_of_its_error(
    client: TestClient, good: Body, environment: pytest.MonkeyPatch
) -> None:
    """The entry belongs to the transaction of the change."""
    from worker.jobs.idempotency import RequestKey

    environment.setattr(RequestKey, "store", lambda *_: 1 / 0)
    careless = TestClient(client.app, headers=client.headers, raise_server_exceptions=False)
    assert careless.post("/v1/jobs", json=good).status_code == 500
    [entry] = entries(client, action="job.create")
    assert (entry["outcome"], entry["target"]) == ("internal_error", None)


# -- what nobody asked for, and secrets ------------------------------------------------------------


def test_the_first_key_is_created_by_the_service(client: TestClient, data_dir: Path) -> None:
    keys.ensure_admin_key(data_dir / "first.key")
    [entry] = entries(client, actor="service", action="key.create")[:1]
    assert (entry["details"], entry["address"], entry["key_id"]) == (
        {"name": "admin", "role": "admin"},
        None,
        None,
    )
    assert (data_dir / "first.key").read_text().strip() not in str(entry)


def test_the_use_of_a_secret_is_that_of_the_owner(
    client: TestClient, good: Body, data_dir: Path, environment: pytest.MonkeyPatch
) -> None:
    profile = {
        "executor": "slurm", "host": "127.0.0.1", "port": 1, "remote_job_dir": str(data_dir / "remote"),
        "roots": [str(data_dir / "inputs")], "secrets": {"team-hf": {"env": "TEAM_HF"}},
    }  # fmt: skip
    (data_dir / "clusters.toml").write_text(table("far", profile))
    environment.setenv("TEAM_HF", "canary-4f1c9b7e")
    forget_settings()
    _key, secret = keys.create("anna", Role.SUBMITTER, "team")
    body = {**good, "cluster": "far", "secrets": {"HF_TOKEN": "team-hf"}}
    made = client.post("/v1/jobs", json=body, headers={"Authorization": f"Bearer {secret}"}).json()["id"]
    assert entries(client, target=made)[0]["details"] == {
        "cluster": "far",
        "secrets": {"HF_TOKEN": "team-hf"},
    }
    set_state(made, JobState.SUBMITTING)
    for _ in range(3):  # the cluster cannot be reached: the submission is repeated
        submit.submit(made)
    [entry] = entries(client, action="secret.use")
    assert (entry["actor"], entry["actor_project"], entry["project"]) == ("anna", "team", "team")
    assert (entry["target"], entry["outcome"], entry["address"]) == ("team-hf", "ok", None)
    details = {"job": made, "attempt": 1, "cluster": "far", "variable": "HF_TOKEN"}
    assert entry["details"] == details
    assert "canary" not in str(entries(client))


# -- reading ---------------------------------------------------------------------------------------


def test_entries_are_listed_in_pages_and_filtered(client: TestClient, send: Callable[..., Any]) -> None:
    start = utcnow()
    for route in ("POST /v1/keys", "POST /v1/jobs", "POST /v1/keys/{key_id}/revoke"):
        send(route)
    everything = entries(client, since=start.isoformat())
    assert [one["action"] for one in everything] == ["key.revoke", "job.create", "key.create"]
    page = client.get("/v1/audit", params={"limit": 2, "since": start.isoformat()}).json()
    rest = client.get(
        "/v1/audit", params={"limit": 2, "since": start.isoformat(), "cursor": page["next_cursor"]}
    ).json()
    assert (page["items"] + rest["items"], rest["next_cursor"]) == (everything, None)
    assert entries(client, until=start.isoformat())[0]["at"] < everything[-1]["at"]
    for name in ("actor", "action", "project", "target", "outcome"):
        chosen = {"since": start.isoformat(), name: everything[0][name]}
        assert entries(client, **chosen) == [one for one in everything if one[name] == everything[0][name]]
    assert client.get("/v1/audit", params={"action": "key.eat"}).status_code == 422
    assert client.get("/v1/audit", params={"since": "soon"}).status_code == 422


# -- never changed, and kept -----------------------------------------------------------------------


def test_the_database_rejects_changes_of_entries(client: TestClient, database: str) -> None:
    engine = create_engine(database)
    statements = ["UPDATE audit_entry SET actor = 'eve'", "DELETE FROM audit_entry"]
    if engine.dialect.name == "postgresql":
        statements.append("TRUNCATE audit_entry")
    before = entries(client)
    for statement in statements:
        with (
            pytest.raises(DBAPIError, match="entries of the audit log cannot be"),
            engine.begin() as connection,
        ):
            connection.execute(text(statement))
    engine.dispose()
    assert before == entries(client) != []


def test_expired_entries_are_deleted(client: TestClient, environment: pytest.MonkeyPatch) -> None:
    ages = (29, 31, 399, 401)
    with writing() as session:
        for days in ages:
            at = utcnow() - timedelta(days=days)
            session.add(AuditEntry(action="key.create", outcome="ok", actor=f"of {days}", at=at))

    def kept() -> list[int]:
        return [days for days in ages if entries(client, actor=f"of {days}")]

    assert (audit.count_expired(), audit.delete_expired(), kept()) == (1, 1, [29, 31, 399])
    environment.setenv("SFT_KEEP_AUDIT_DAYS", "30")
    forget_settings()
    assert (audit.count_expired(), audit.delete_expired(), kept()) == (2, 2, [29])


# -- a flood, and a database that is busy ----------------------------------------------------------


def test_of_a_flood_of_rejected_requests_some_are_kept_and_the_rest_is_counted(client: TestClient) -> None:
    _key, secret = keys.create("eve", Role.VIEWER, "default")
    headers = {"Authorization": f"Bearer {secret}"}
    for _ in range(audit.NOTES_PER_MINUTE + 50):
        assert client.post("/v1/jobs/job-none/cancel", headers=headers).status_code == 404
    assert len(entries(client, actor="eve", limit=200)) == audit.NOTES_PER_MINUTE
    assert client.post("/v1/jobs/job-none/cancel").status_code == 404  # another key
    assert entries(client)[0]["actor"] == "admin"
    with time_machine.travel(utcnow() + timedelta(seconds=61)):
        client.post("/v1/jobs/job-none/cancel", headers=headers)
    assert entries(client, actor="eve")[0]["details"] == {"left_out": 50}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_busy_database_delays_the_entry_and_not_the_answer(client: TestClient, database: str) -> None:
    assert client.get("/v1/whoami").is_success  # the use of the key is noted now
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert client.post("/v1/jobs/job-busy/cancel").status_code == 404
        assert entries(client, target="job-busy") == []
        other.execute("ROLLBACK")
    wait_until(lambda: entries(client, target="job-busy"))


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_without_the_table_the_answer_is_the_same(client: TestClient, database: str) -> None:
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as other:
        other.execute("DROP TABLE audit_entry")
    answer = client.post("/v1/jobs/job-none/cancel")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
