"""Every route with every role: permissions, and completeness of the table."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.waiting import wait_until
from worker.auth import keys
from worker.auth.roles import Role
from worker.clock import utcnow
from worker.db.models import Checkpoint
from worker.db.session import writing
from worker.jobs import queries, transitions
from worker.states import JobState

# Callers: role and project of the key. The job belongs to `owner`; `nobody` has no key.
CALLERS: dict[str, tuple[Role, str] | None] = {
    "nobody": None,
    "viewer": (Role.VIEWER, "team"),
    "other": (Role.SUBMITTER, "team"),
    "owner": (Role.SUBMITTER, "team"),
    "operator": (Role.OPERATOR, "team"),
    "stranger": (Role.OPERATOR, "rivals"),
    "admin": (Role.ADMIN, "default"),
}

# Rejected callers and their status; all other callers are permitted.
EVERYBODY: dict[str, int] = {}
WITH_KEY = {"nobody": 401}
MAKES_JOBS = {"nobody": 401, "viewer": 403}
SEES_THE_JOB = {"nobody": 401, "stranger": 404}
CHANGES_THE_JOB = {"nobody": 401, "viewer": 403, "other": 403, "stranger": 404}
ADMINS = {"nobody": 401} | dict.fromkeys(("viewer", "other", "owner", "operator", "stranger"), 403)

ROUTES: dict[str, dict[str, int]] = {
    "GET /healthz": EVERYBODY,
    "GET /metrics": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /v1/whoami": WITH_KEY,
    "GET /v1/presets": WITH_KEY,
    "GET /v1/presets/{name}": WITH_KEY,
    "GET /v1/schema": WITH_KEY,
    "GET /v1/models": WITH_KEY,
    "GET /v1/clusters": WITH_KEY,
    "GET /v1/jobs": WITH_KEY,
    "POST /v1/datasets:inspect": MAKES_JOBS,
    "POST /v1/jobs:plan": MAKES_JOBS,
    "POST /v1/jobs": MAKES_JOBS,
    "GET /v1/jobs/{job_id}": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/stream": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/attempts": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/events": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/events/stream": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/logs": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/logs/stream": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/metrics": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/checkpoints": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/checkpoints/{iteration}": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/checkpoints/{iteration}/files/{path}": SEES_THE_JOB,
    "GET /v1/jobs/{job_id}/checkpoints/{iteration}/archive": SEES_THE_JOB,
    "POST /v1/jobs/{job_id}/checkpoints/{iteration}/export": {"nobody": 401, "viewer": 403, "stranger": 404},
    "POST /v1/jobs/{job_id}/cancel": CHANGES_THE_JOB,
    "POST /v1/jobs/{job_id}/pause": CHANGES_THE_JOB,
    "POST /v1/jobs/{job_id}/resume": CHANGES_THE_JOB,
    "POST /v1/jobs/{job_id}/retry": CHANGES_THE_JOB,
    "GET /v1/audit": ADMINS,
    "GET /v1/limits": ADMINS,
    "GET /v1/projects/{project}/limits": {"nobody": 401, "stranger": 404},
    "PUT /v1/projects/{project}/limits": ADMINS,
    "DELETE /v1/projects/{project}/limits": ADMINS,
    "GET /v1/keys": ADMINS,
    "POST /v1/keys": ADMINS,
    "GET /v1/keys/{key_id}": ADMINS,
    "POST /v1/keys/{key_id}/revoke": ADMINS,
}

Call = Callable[..., Any]


@pytest.fixture
def call(client: TestClient) -> Call:
    """Return a function that sends a request as one of CALLERS."""
    made = {name: keys.create(name, *fields) for name, fields in CALLERS.items() if fields}
    secrets = {name: secret for name, (_key, secret) in made.items()}

    def send(name: str, method: str, path: str, **content: Any) -> Any:
        headers = {"Authorization": f"Bearer {secrets[name]}"} if name in secrets else {}
        client.headers.pop("Authorization", None)
        return client.request(method, path, headers=headers, **content)

    return send


@pytest.fixture
def job_id(call: Call, good: dict[str, Any]) -> str:
    """Return an ended job of `owner`, with a checkpoint."""
    made: str = call("owner", "POST", "/v1/jobs", json=good).json()["id"]
    job = queries.get(made)
    path = Path(job.config["checkpoint"]["save"]) / "iter_0000004"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"1234")
    with writing() as session:
        transitions.move(session, job, JobState.CANCELLING)
        transitions.move(session, job, JobState.CANCELLED)
        files = [{"path": "weights", "bytes": 4}]
        row = Checkpoint(
            job_id=made, iteration=4, attempt=1, path=str(path), bytes=4, files=files, saved_at=utcnow()
        )
        session.add(row)
    return made


def test_the_table_contains_every_route(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    offered = {f"{method.upper()} {path}" for path, one in document["paths"].items() for method in one}
    assert offered == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_each_caller_may_call_only_permitted_routes(
    call: Call, job_id: str, good: dict[str, Any], route: str
) -> None:
    victim, _secret = keys.create("victim", Role.VIEWER, "team")
    method, template = route.split()
    path = template.format(
        name="cpu-tiny", job_id=job_id, iteration=4, path="weights", key_id=victim.id, project="team"
    )
    bodies = {"POST /v1/jobs": good, "POST /v1/jobs:plan": good}
    bodies["POST /v1/datasets:inspect"] = {"path": good["inputs"]["packed_parquet"]}
    bodies["POST /v1/keys"] = {"name": "new", "role": "viewer"}
    bodies["PUT /v1/projects/{project}/limits"] = {"waiting_jobs": 5}
    body = {"json": bodies[route]} if route in bodies else {}
    for name in CALLERS:
        answer = call(name, method, path, **body)
        rejection = answer.status_code if answer.status_code in (401, 403, 404) else None
        assert rejection == ROUTES[route].get(name), f"{name}: {answer.status_code} {answer.text}"
        if rejection:
            assert answer.json()["code"] in ("unauthenticated", "forbidden", "not_found")


def test_a_project_sees_only_its_own_jobs(call: Call, good: dict[str, Any]) -> None:
    made = {name: call(name, "POST", "/v1/jobs", json=good).json()["id"] for name in ("owner", "stranger")}

    def listed(name: str, **filters: str) -> list[str]:
        return [job["id"] for job in call(name, "GET", "/v1/jobs", params=filters).json()["items"]]

    assert listed("viewer") == [made["owner"]]
    assert listed("stranger") == [made["stranger"]]
    assert listed("viewer", project="rivals") == []
    assert listed("admin") == [made["stranger"], made["owner"]]
    assert listed("admin", project="team") == [made["owner"]]


def test_two_projects_may_use_the_same_idempotency_key(client: TestClient, good: dict[str, Any]) -> None:
    _key, secret = keys.create("owner", Role.SUBMITTER, "team")
    _key, namesake = keys.create("owner", Role.SUBMITTER, "rivals")
    one = {"Idempotency-Key": "one"}
    first = client.post("/v1/jobs", json=good, headers={**one, "Authorization": f"Bearer {secret}"})
    second = client.post("/v1/jobs", json=good, headers={**one, "Authorization": f"Bearer {namesake}"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] != second.json()["id"]


def test_an_owner_is_identified_by_name_and_project(call: Call, job_id: str) -> None:
    """The same name in another project is another owner; a new key with the same name is not."""
    rotated, _secret = keys.create("owner", Role.SUBMITTER, "team")
    caller = keys.authenticate(_secret)
    assert caller.key_id == rotated.id
    assert caller.may_change(queries.get(job_id))
    _key, namesake = keys.create("owner", Role.OPERATOR, "rivals")
    assert not keys.authenticate(namesake).may_change(queries.get(job_id))


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_created_used_and_revoked(client: TestClient) -> None:
    made = client.post("/v1/keys", json={"name": "anna", "role": "viewer", "project": "team"}).json()
    secret = made.pop("key")
    with_key = {"Authorization": f"Bearer {secret}"}
    assert client.get("/v1/whoami", headers=with_key).json() == {
        "name": "anna", "project": "team", "role": "viewer",
    }  # fmt: skip
    listed = client.get("/v1/keys").json()["items"]
    assert [key["name"] for key in listed] == ["anna", "admin"]
    wait_until(lambda: client.get("/v1/keys").json()["items"][0]["last_used_at"], what="the use's record")
    assert secret not in client.get("/v1/keys").text
    assert client.post(f"/v1/keys/{made['id']}/revoke").json()["revoked_at"]
    rejection = client.get("/v1/whoami", headers=with_key)
    assert (rejection.status_code, "revoked" in rejection.json()["detail"]) == (401, True)
    assert client.post(f"/v1/keys/{made['id']}/revoke").status_code == 200


def test_keys_are_listed_in_pages(client: TestClient) -> None:
    for name in ("anna", "bert"):
        client.post("/v1/keys", json={"name": name, "role": "viewer"})
    page = client.get("/v1/keys?limit=2").json()
    rest = client.get("/v1/keys", params={"cursor": page["next_cursor"]}).json()
    assert [key["name"] for key in page["items"] + rest["items"]] == ["bert", "anna", "admin"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("wrong", "pointer"),
    [
        ({"name": "a b"}, "/name"),
        ({"name": "system"}, "/name"),
        ({"name": "service"}, "/name"),
        ({"role": "king"}, "/role"),
        ({"project": "../x"}, "/project"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "/expires_at"),
        ({"expires_at": "soon"}, "/expires_at"),
        ({"key": "sft_chosen"}, "/key"),
    ],
)
def test_a_wrong_key_request_is_pointed_at(client: TestClient, wrong: dict[str, str], pointer: str) -> None:
    answer = client.post("/v1/keys", json={"name": "anna", "role": "viewer", **wrong})
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]
