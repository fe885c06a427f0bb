"""Length, count and nesting of each value are bounded before a parser reads it.

A parser that overflows its stack ends the test process.
"""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from worker.db.models import Job
from worker.db.session import writing
from worker.states import JobState

Body = dict[str, Any]

# Rejected input never reaches the database: one kind of database is enough.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

MAX_ERRORS = 20
CLOSED_IN_QUOTES = "[" + '"' + "]" * 40 + '",' + "[" * 1000

TEXTS = {
    "too long": "[" * 30_000,
    "flow": "[" * 3000,
    "flow objects": "{a: " * 1000,
    "blocks": "- " * 2000,
    "blocks of keys": "? " * 2000,
    "closed in quotes": CLOSED_IN_QUOTES,
    "tagged": "!!seq [" * 500,
}
DEEP = "{a: " * 30 + "1" + "}" * 30


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("url", ["/v1/jobs", "/v1/jobs:plan"])
def test_a_nested_text_is_rejected(client: TestClient, good: Body, text: str, url: str) -> None:
    for change in ({"overrides": [f"seq_length={text}"]}, {"args": ["--seq-length", text]}):
        answer = client.post(url, json={**good, **change})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"].startswith(f"/{next(iter(change))}")
        assert len(answer.content) < 4096
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"overrides": ["a=1"] * 6500}, "/overrides"),
        ({"overrides": {f"train.a{i}": 1 for i in range(6500)}}, "/overrides"),
        ({"overrides": [f"seq_length={DEEP}"] * 256}, "/overrides"),
        ({"overrides": {f"train.a{i}": {"b": [1] * 100} for i in range(50)}}, "/overrides"),
        ({"overrides": ["train.x=" + "1," * 2000] * 256}, "/overrides"),
        ({"overrides": [f"a{'.a' * 24_000}=1"]}, "/overrides/0"),
        ({"overrides": [f"a{'.a' * 100}=1"]}, "/overrides/0"),
        ({"overrides": {f"a{'.a' * 100}": 1}}, f"/overrides/a{'.a' * 100}"),
        ({"overrides": ["seq_length=" + "1:" * 100_000 + "1"]}, "/overrides"),
        ({"args": ["--seq-length", "1"] * 3000}, "/args"),
        ({"config": {f"key{i}": 1 for i in range(27_000)}}, "/config"),
        ({"config": {"seq_length": "1" * 500_000}}, "/config"),
        ({"config": "a" * 500_000}, "/config"),
        ({"labels": {f"label{i}": "" for i in range(300)}}, "/labels"),
        ({"secrets": {f"SECRET_{i}": "x" for i in range(300)}}, "/secrets"),
        ({"inputs": {"packed_parquet": "/" * 500_000}}, "/inputs/packed_parquet"),
        ({"cluster": "a" * 500_000}, "/cluster"),
        ({"plan_hash": "a" * 500_000}, "/plan_hash"),
    ],
)  # fmt: skip
def test_more_than_anyone_needs_is_rejected(
    client: TestClient, good: Body, change: Body, pointer: str
) -> None:
    answer = client.post("/v1/jobs", json={**good, **change})
    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]
    assert len(answer.content) < 8192
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    "change",
    [
        {f"field{i}": 1 for i in range(3000)},
        {"overides" * 5000: 1},
        {"config": {f"seq_lenght{i}": 1 for i in range(1500)}},
        {"overrides": {f"train.itres{i}": 1 for i in range(250)}},
        {"labels": {f"-{i}": "" for i in range(250)}},
        {"secrets": {f"A{i}": "a\n" for i in range(250)}},
    ],
)
def test_of_many_errors_the_first_are_reported(client: TestClient, good: Body, change: Body) -> None:
    answer = client.post("/v1/jobs:plan", json={**good, **change})
    assert answer.status_code == 422
    assert 1 <= len(answer.json()["errors"]) <= MAX_ERRORS
    assert len(answer.content) < 32_768


def test_what_is_allowed_is_accepted(client: TestClient, good: Body) -> None:
    repeated = [*good["overrides"], *["train.train_iters=4"] * 200]
    labels = {f"label{i}": "x" * 200 for i in range(100)}
    assert client.post("/v1/jobs", json={**good, "overrides": repeated, "labels": labels}).status_code == 201


def test_a_stored_job_above_the_bounds_is_rejected_by_a_retry(client: TestClient, good: Body) -> None:
    made = client.post("/v1/jobs", json=good).json()
    with writing() as session:
        job = session.get_one(Job, made["id"])
        spec = {**job.spec, "labels": {f"label{i}": "" for i in range(300)}}
        job.sqlmodel_update({"spec": spec, "state": JobState.FAILED})
    answer = client.post(f"/v1/jobs/{made['id']}/retry", json={"overrides": ["train.train_iters=3"]})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == "/job/spec/labels"
