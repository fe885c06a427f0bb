"""A failure shows its evidence and a suggestion; a retry applies the suggestion."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.service import Service
from tests.support.stand_in.control import with_mode
from worker.clock import utcnow
from worker.db.models import Attempt
from worker.db.session import writing
from worker.jobs import queries
from worker.states import JobState

Body = dict[str, Any]


@pytest.mark.slow
def test_an_out_of_memory_job_succeeds_with_the_suggestion(service: Service, body: Body) -> None:
    job = service.submit(with_mode(body, "oom", resources={"gpus_per_node": 2}))
    job = service.wait_for(job["id"], "FAILED")
    failure = job["failure"]
    assert (failure["class"], failure["retryable"]) == ("oom", False)
    evidence = failure["evidence"]
    assert (evidence["attempt"], evidence["rank"]) == (1, 1)
    url = f"/v1/jobs/{job['id']}"
    place = {name: evidence[name] for name in ("attempt", "rank", "offset", "limit")}
    text = service.client.get(f"{url}/logs", params=place).json()["text"]
    assert text == evidence["line"]
    assert "CUDA out of memory. Tried to allocate 32.00 GiB" in text
    change = {"field": "recipe.tensor_model_parallel_size", "from": 1, "to": 2}
    assert failure["suggestion"] == change

    retried = service.client.post(f"{url}/retry", json={"apply_suggestion": True})
    assert (retried.status_code, retried.json()["attempt"]) == (202, 2), retried.text
    now = service.wait_for(job["id"], "SUCCEEDED")
    assert now["config"]["recipe"]["tensor_model_parallel_size"] == 2
    assert now["failure"] is None
    events = service.client.get(f"{url}/events").json()["items"]
    [changed] = [event for event in events if event["type"] == "changed"]
    assert changed["data"] == {"changes": [{**change, "from": None}]}
    first, second = service.client.get(f"{url}/attempts").json()["items"]
    assert first["failure"] == failure
    assert (second["failure"], second["resources"]) == (None, now["resources"])


@pytest.mark.slow
def test_an_unexplained_failure_shows_the_end_of_the_log(service: Service, body: Body) -> None:
    job = service.submit(with_mode(body, "die"))
    failure = service.wait_for(job["id"], "FAILED")["failure"]
    assert (failure["class"], failure["retryable"]) == ("unknown", True)
    assert failure["evidence"]["last_lines"] == ["rank 0 says hello"]


# -- the body of a retry -----------------------------------------------------------------------------


@pytest.fixture
def failed(client: TestClient, good: Body) -> str:
    """Return the URL that retries a failed job."""
    job_id = client.post("/v1/jobs", json=good).json()["id"]
    with writing() as session:
        queries.find(session, job_id).state = JobState.FAILED
    return f"/v1/jobs/{job_id}/retry"


@pytest.mark.parametrize("request_", [{}, {"json": {}}, {"json": None}, {"json": {"overrides": []}}])
def test_a_retry_needs_no_body(client: TestClient, failed: str, request_: Body) -> None:
    answer = client.post(failed, **request_)
    assert (answer.status_code, answer.json()["attempt"]) == (202, 2)


def test_usage_counts_each_attempt_with_its_own_gpus(client: TestClient, failed: str) -> None:
    began = utcnow() - timedelta(hours=3)
    url = failed.removesuffix("/retry")
    client.post(failed, json={"resources": {"gpus_per_node": 4}})
    with writing() as session:
        for number, hours in ((1, 2), (2, 1)):
            attempt = session.get_one(Attempt, (url.rpartition("/")[2], number))
            attempt.started_at, attempt.finished_at = began, began + timedelta(hours=hours)
    assert client.get(url).json()["usage"]["gpu_hours"] == 2 * 1 + 1 * 4


# A rejected request changes nothing: one kind of database is enough.
ONE_DATABASE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@ONE_DATABASE
@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"overides": []}, "/overides"),
        ({"apply_suggestion": "yes"}, "/apply_suggestion"),
        ({"apply_suggestion": True}, "/apply_suggestion"),
        ({"resources": {"nodes": 0}}, "/resources/nodes"),
        ({"resources": {"hours": 1}}, "/resources/hours"),
        ({"overrides": "a=b"}, "/overrides"),
        ({"overrides": ["seq_length=512", "train.gloabl_batch_size=8"]}, "/overrides/1"),
        ({"overrides": {"train.micro_batch_size": 2}}, "/overrides/train.micro_batch_size"),
        ({"overrides": ["checkpoint.save=/etc"]}, "/overrides/0"),
        ({"overrides": ["trust_remote_code=true"]}, "/overrides/0"),
        ({"overrides": ["dataset.nano3_packed_sft_dir=/etc"]}, "/overrides/0"),
        ([], ""),
    ],
)
def test_invalid_fields_of_a_retry_are_pointed_at(
    client: TestClient, failed: str, body: Any, pointer: str
) -> None:
    answer = client.post(failed, json=body)
    assert answer.status_code == 422, answer.text
    assert pointer in [fault["pointer"] for fault in answer.json()["errors"]]
    assert client.get(failed.removesuffix("/retry")).json()["state"] == "FAILED"


@ONE_DATABASE
def test_a_retry_must_be_sent_as_json(client: TestClient, failed: str) -> None:
    assert client.post(failed, content="overrides=a").status_code == 415
    assert client.post(failed, json={"overrides": ["a=" + "x" * (1 << 21)]}).status_code == 413
