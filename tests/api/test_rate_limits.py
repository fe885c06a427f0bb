"""Rate limits: 429 with Retry-After, headers on every answer, counted together by all processes."""

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from tests.support.process import forget_settings, use_broker
from worker.auth import keys
from worker.auth.roles import Role

Process = Callable[..., TestClient]


@pytest.fixture
def secret(database: str, data_dir: Path) -> str:
    (data_dir / "inputs").mkdir()
    return keys.create("anna", Role.SUBMITTER, "team")[1]


@pytest.fixture
def process(secret: str, environment: pytest.MonkeyPatch) -> Iterator[Process]:
    """Return a function that starts an API process with settings, and a client of it with a key."""
    with ExitStack() as running:

        def start(key: str | None = secret, address: str = "192.0.2.1", **settings: str) -> TestClient:
            for name, value in settings.items():
                environment.setenv(f"SFT_{name.upper()}", value)
            forget_settings()
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return running.enter_context(TestClient(create_app(), headers=headers, client=(address, 1)))

        yield start


def plan(client: TestClient, good: dict[str, Any], **headers: str) -> Any:
    return client.post("/v1/jobs:plan", json=good, headers=headers)


def assert_limited(answer: Any, policy: str, seconds: int = 3600) -> None:
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["retryable"]) == ("rate_limited", True)
    assert f"SFT_RATE_LIMIT_{policy.upper()}" in problem["hint"]
    assert re.fullmatch(r"[1-9]\d*", answer.headers["Retry-After"])
    assert int(answer.headers["Retry-After"]) <= seconds
    assert answer.headers["RateLimit"] == f'"{policy}";r=0;t={answer.headers["Retry-After"]}'


def test_writes_of_a_key_are_limited_and_reported(process: Process, good: dict[str, Any]) -> None:
    client = process(rate_limit_writes="3/hour")
    answers = [plan(client, good) for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429]
    assert {one.headers["RateLimit-Policy"] for one in answers} == {'"writes";q=3;w=3600'}
    left = [re.fullmatch(r'"writes";r=(\d+);t=\d+', one.headers["RateLimit"]) for one in answers]
    assert [match and match[1] for match in left] == ["2", "1", "0", "0"]
    assert_limited(answers[3], "writes")
    assert client.get("/v1/whoami").headers["RateLimit-Policy"] == '"reads";q=100;w=1'
    _key, another = keys.create("anna", Role.SUBMITTER, "team")
    assert plan(client, good, Authorization=f"Bearer {another}").status_code == 200


def test_every_kind_of_write_counts_and_errors_do_too(process: Process, good: dict[str, Any]) -> None:
    client = process(rate_limit_writes="4/hour")
    assert client.post("/v1/jobs", json=good).status_code == 201
    assert client.post("/v1/jobs/job-none/cancel").status_code == 404
    assert client.post("/v1/datasets:inspect", json={"path": 5}).status_code == 422
    assert client.post("/v1/keys", json={}).headers["RateLimit"].startswith('"writes";r=0')
    assert_limited(client.post("/v1/jobs", json=good), "writes")


def test_writes_are_counted_by_all_processes_together(process: Process, good: dict[str, Any]) -> None:
    first, second = process(rate_limit_writes="2/hour"), process()
    assert [plan(one, good).status_code for one in (first, second, first, second)] == [200, 200, 429, 429]


@pytest.fixture(params=["absent", "silent"])
def broken_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a broker that does not exist, or that accepts connections and never answers."""
    path = tmp_path / "b"
    with socket.socket(socket.AF_UNIX) as listener:
        if request.param == "silent":
            listener.bind(str(path))
            listener.listen(50)
        yield f"redis+socket://{path}"


def test_without_redis_a_process_limits_by_itself(
    process: Process, good: dict[str, Any], broken_broker: str, environment: pytest.MonkeyPatch
) -> None:
    use_broker(broken_broker, environment)
    client = process(rate_limit_writes="2/hour")
    assert [plan(client, good).status_code for _ in range(3)] == [200, 200, 429]


def test_reads_are_limited_in_the_process_and_health_is_not(
    process: Process, environment: pytest.MonkeyPatch
) -> None:
    client = process(rate_limit_reads="3/hour")
    assert [client.get("/v1/whoami").status_code for _ in range(3)] == [200] * 3
    assert_limited(client.get("/v1/jobs"), "reads")
    assert_limited(client.get("/v1/jobs/job-none?wait=30s"), "reads")
    assert client.post("/v1/jobs/job-none/cancel").status_code == 404
    for _ in range(5):
        for path in ("/healthz", "/readyz"):
            answer = client.get(path)
            assert (answer.status_code, "RateLimit" in answer.headers) == (200, False)
    assert process().get("/v1/whoami").status_code == 200  # another process


def test_guesses_of_an_address_are_limited(process: Process) -> None:
    client = process(key=None, rate_limit_unauthenticated="2/hour")
    guesses = [{"Authorization": f"Bearer sft_{number}"} for number in range(3)]
    answers = [client.get("/v1/whoami", headers=guess) for guess in guesses]
    assert [one.status_code for one in answers] == [401, 401, 429]
    assert answers[1].headers["RateLimit-Policy"] == '"unauthenticated";q=2;w=3600'
    assert answers[1].headers["RateLimit"].startswith('"unauthenticated";r=0;t=')
    for answer in (answers[2], client.post("/v1/jobs", json={}), client.get("/metrics")):
        assert_limited(answer, "unauthenticated")


def test_guesses_lock_out_no_valid_key_of_their_address(process: Process, secret: str) -> None:
    client = process(key="sft_wrong", rate_limit_unauthenticated="1/hour")
    assert [client.get("/v1/whoami").status_code for _ in range(2)] == [401, 429]
    valid = {"Authorization": f"Bearer {secret}"}  # this process has not seen it yet
    assert [client.get("/v1/whoami", headers=valid).status_code for _ in range(2)] == [200, 200]
    assert_limited(client.get("/v1/whoami"), "unauthenticated")


def test_a_revoked_key_is_a_guess(process: Process, secret: str) -> None:
    client = process(rate_limit_unauthenticated="2/hour")
    key_id = keys.authenticate(secret).key_id
    assert client.get("/v1/whoami").status_code == 200
    keys.revoke(key_id)
    assert [client.get("/v1/whoami").status_code for _ in range(3)] == [401, 401, 429]


def test_addresses_of_one_network_are_one_client(process: Process, secret: str) -> None:
    settings = {"rate_limit_unauthenticated": "1/hour"}
    app = process(key=None, address="2001:db8::1", **settings).app

    def status(address: str) -> int:
        return TestClient(app, client=(address, 1)).get("/v1/whoami").status_code

    assert [status(f"2001:db8::{host}") for host in (1, 2)] == [401, 429]
    assert [status(address) for address in ("2001:db8:0:1::1", "192.0.2.7", "192.0.2.7")] == [401, 401, 429]


def test_limits_can_be_switched_off(process: Process, good: dict[str, Any]) -> None:
    names = ("reads", "writes", "unauthenticated")
    client = process(**{f"rate_limit_{name}": "off" for name in names})
    answers = [
        client.get("/v1/whoami"),
        plan(client, good),
        client.get("/v1/whoami", headers={"Authorization": "x"}),
    ]
    assert [one.status_code for one in answers] == [200, 200, 401]
    assert not any("RateLimit" in one.headers for one in answers)
