"""No request may contain a secret, and no answer, log line or row repeats one."""

import json
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlmodel import select

from worker.db.models import IdempotencyKey, Job
from worker.db.session import reading, writing
from worker.states import JobState
from worker.telemetry import logging

Body = dict[str, Any]

# Rejected input never reaches the database: one kind of database is enough.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

TOKEN = "hf_" + "aB3" * 11 + "x"
PLAIN = "hunter2-of-ours"
"""A secret that has no form of its own: its name tells."""

CODE = "secret_in_request"
KWARGS = "dataset.dataset_kwargs"


@pytest.fixture
def stderr(client: TestClient, environment: pytest.MonkeyPatch) -> Iterator[StringIO]:
    """Yield the application's log output."""
    stream = StringIO()
    with environment.context() as patch:
        patch.setattr(sys, "stderr", stream)
        logging.configure()
        yield stream
    logging.configure()


NAMED: list[tuple[Body, str]] = [
    ({"overrides": [f"logger.comet_api_key={PLAIN}"]}, "/overrides/0"),
    ({"overrides": {"logger.comet_api_key": PLAIN}}, "/overrides/logger.comet_api_key"),
    ({"overrides": {"logger": {"comet_api_key": PLAIN}}}, "/overrides/logger"),
    ({"overrides": [f"logger={{comet_api_key: {PLAIN}}}"]}, "/overrides/0"),
    ({"overrides": [f"recipe.comet_api_key={PLAIN}"]}, "/overrides/0"),
    ({"overrides": [f"logger.mlflow_tags={{a: {{Password: {PLAIN}}}}}"]}, "/overrides/0"),
    ({"overrides": [f'logger.mlflow_tags={{"api-k\\x65y": {PLAIN}}}']}, "/overrides/0"),
    ({"overrides": [f"tokenizer.hf_tokenizer_kwargs.token={PLAIN}"]}, "/overrides/0"),
    ({"overrides": {KWARGS: {"use_auth_token": PLAIN}}}, f"/overrides/{KWARGS}"),
    ({"overrides": {KWARGS: {"env": {"WANDB_API_KEY": PLAIN}}}}, f"/overrides/{KWARGS}"),
    ({"overrides": {KWARGS: {"headers": {"Authorization": PLAIN}}}}, f"/overrides/{KWARGS}"),
    ({"overrides": {KWARGS: {"passphrase": 12345}}}, f"/overrides/{KWARGS}"),
    ({"overrides": {KWARGS: {"clientSecret": [PLAIN]}}}, f"/overrides/{KWARGS}"),
    ({"overrides": {KWARGS: {"AWS_SECRET_ACCESS_KEY": {"v": PLAIN}}}}, f"/overrides/{KWARGS}"),
    ({"args": ["--mixed-precision", f"{{bearer: {PLAIN}}}"]}, "/args/0"),
    ({"config": {"logger": {"comet_api_key": PLAIN}}}, "/config/logger/comet_api_key"),
    ({"config": {"logger": {"mlflow_tags": {"ssh_key": PLAIN}}}}, "/config/logger/mlflow_tags/ssh_key"),
    ({"labels": {"db_password": PLAIN}}, "/labels/db_password"),
    ({"labels": {"token": PLAIN}}, "/labels/token"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "pointer"), NAMED)
def test_a_value_whose_name_is_that_of_a_secret_is_rejected(
    client: TestClient, good: Body, stderr: StringIO, change: Body, pointer: str
) -> None:
    rejected(client, {**good, **change}, pointer, PLAIN)
    assert PLAIN not in stderr.getvalue()


def rejected(client: TestClient, body: Body, pointer: str, secret: str) -> None:
    """Post a job with a secret: no answer repeats it, nothing is stored."""
    for url in ("/v1/jobs", "/v1/jobs:plan"):
        answer = client.post(url, json=body, headers={"Idempotency-Key": "one"})
        assert answer.status_code == 422, answer.text
        assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [(pointer, CODE)]
        assert "secrets" in answer.json()["hint"]
        assert secret not in answer.text
    with reading() as session:
        assert session.exec(select(Job)).all() == session.exec(select(IdempotencyKey)).all() == []


TEXTS = {
    "Hugging Face": TOKEN,
    "this service": "sft_" + "aB3-_" * 8 + "xyz",
    "GitHub": "ghp_" + "a1B2" * 9,
    "GitHub, fine": "github_pat_" + "a1B2" * 9,
    "GitLab": "glpat-" + "a1B2" * 5,
    "AWS": "AKIA" + "A1B2" * 4,
    "NVIDIA": "nvapi-" + "a1B2" * 16,
    "Slack": "xoxb-" + "123-" * 5 + "ab",
    "Anthropic": "sk-ant-" + "a1B2" * 9,
    "JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
    "private key": "-----BEGIN OPENSSH PRIVATE KEY----- b3BlbnNz",
    "header": "Bearer " + "a1B2" * 8,
    "password in a URL": "https://anna:hunter2@host/x",
    "password of a database": "postgresql://anna:hunter2@host/x",
    "password in a lenient URL": "HTTPS:\\\\anna:hunter2@host/x",
    "variable": "COMET_API_KEY=hunter2hunter2 sft submit",
    "header in words": "Authorization: Basic aHVudGVy",
    "token in a URL": "https://0123456789abcdef@host/x",
    "encoded": "https%3A%2F%2Fanna%3Ahunter2%40host%2Fx",
    "query": "https://host/x?page=2&api_key=0123abcd",
    "signature": "https://host/x?X-Amz-Signature=0123abcd",
    "fragment": "https://host/x#access_token=0123abcd",
    "assignment": "see: password = hunter2; thanks",
    "in a word": f"my-{TOKEN}-two",
}
PLACES = {
    "/overrides/0": lambda text: {"overrides": ["logger.wandb_exp_name=" + json.dumps(text)]},
    "/overrides/logger.wandb_exp_name": lambda text: {"overrides": {"logger.wandb_exp_name": text}},
    "/args/1": lambda text: {"args": ["--hf-model-path", json.dumps(text)]},
    "/config/logger/comet_tags/0": lambda text: {"config": {"logger": {"comet_tags": [text]}}},
    "/config": lambda text: {"config": text},
    "/inputs/packed_parquet": lambda text: {"inputs": {"packed_parquet": text}},
    "/labels/team": lambda text: {"labels": {"team": text}},
    "/secrets/HF_TOKEN": lambda text: {"secrets": {"HF_TOKEN": text}},
    "/cluster": lambda text: {"cluster": text},
    "/plan_hash": lambda text: {"plan_hash": text},
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_that_holds_a_secret_is_rejected_everywhere(
    client: TestClient, good: Body, stderr: StringIO, text: str
) -> None:
    for pointer, change in PLACES.items():
        rejected(client, {**good, **change(text)}, pointer, text)
    assert text not in stderr.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        {TOKEN: 1},
        {"labels": {TOKEN: "x"}},
        {"secrets": {TOKEN: "x"}},
        {"overrides": [f"{TOKEN}=1"]},
        {"overrides": {"train": {TOKEN: 1}}},
        {"overrides": {TOKEN: 1}},
        {"config": {TOKEN: 1}},
        {"config": {"train": {TOKEN: 1}}},
        {"inputs": {TOKEN: 1}},
        {"name": TOKEN},
        {"attached": TOKEN},
        {"resources": {"nodes": TOKEN}},
    ],
)
def test_a_secret_in_a_name_or_a_wrong_place_is_not_repeated(
    client: TestClient, good: Body, change: Body
) -> None:
    answer = client.post("/v1/jobs", json={**good, **change})
    assert answer.status_code == 422
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "change",
    [
        {"overrides": [PLAIN]},
        {"overrides": [f"logger.comet-api-key={PLAIN}"]},
        {"overrides": [f"logger.comet_api_key: {PLAIN}"]},
        {"overrides": [f"logger.comet_api_key=[{PLAIN}"]},
        {"overrides": [f"logger.comet_api_key=!{PLAIN}"]},
        {"overrides": [f"logger.comet_api_key=!!int {PLAIN}"]},
        {"overrides": [f"logger.comet_api_key=*{PLAIN}"]},
        {"overrides": [f"logger.mlflow_tags={{api_key: {PLAIN}"]},
        {"overrides": [f"logger.mlflow_tags={{hf_token: {PLAIN}"]},
        {"overrides": [f"logger.comet_api_key.x={PLAIN}"]},
        {"args": [PLAIN]},
        {"args": [f"--comet-api-key={PLAIN}"]},
        {"args": ["--comet-api-key", PLAIN]},
        {"args": ["--seq-length", "8", PLAIN]},
        {"secrets": {"COMET_API_KEY": PLAIN}},
        {"comet_api_key": PLAIN},
        {"inputs": {"api_key": PLAIN}},
    ],
)
def test_an_error_quotes_no_value_that_may_be_a_secret(
    client: TestClient, good: Body, stderr: StringIO, change: Body
) -> None:
    for url in ("/v1/jobs", "/v1/jobs:plan"):
        answer = client.post(url, json={**good, **change})
        assert answer.status_code == 422
        assert PLAIN not in answer.text
    assert PLAIN not in stderr.getvalue()


def test_a_retry_takes_no_secret(client: TestClient, good: Body) -> None:
    job = client.post("/v1/jobs", json=good).json()["id"]
    with writing() as session:
        session.get_one(Job, job).sqlmodel_update({"state": JobState.FAILED})
    for overrides in ([f"logger.comet_api_key={PLAIN}"], {"logger": {"comet_api_key": PLAIN}}):
        answer = client.post(f"/v1/jobs/{job}/retry", json={"overrides": overrides})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, CODE)
        assert answer.json()["errors"][0]["pointer"].startswith("/overrides/")
        assert PLAIN not in answer.text
    assert PLAIN not in client.get(f"/v1/jobs/{job}").text


def test_an_inspection_repeats_no_secret(client: TestClient, good: Body) -> None:
    for field in ("path", "hf_model_path", "cluster"):
        body = {"path": good["inputs"]["packed_parquet"], field: TEXTS["password in a URL"]}
        answer = client.post("/v1/datasets:inspect", json=body)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, CODE)
        assert "hunter2" not in answer.text


def test_no_header_stores_or_logs_a_secret(client: TestClient, good: Body, stderr: StringIO) -> None:
    answer = client.post("/v1/jobs", json=good, headers={"Idempotency-Key": TOKEN})
    assert answer.json()["errors"][0]["pointer"] == "header/Idempotency-Key"
    assert TOKEN not in answer.text
    answer = client.get(f"/v1/keys/{TOKEN}", headers={"X-Request-ID": TOKEN})
    assert TOKEN not in answer.text + str(answer.headers)
    assert client.post("/v1/keys", json={"name": TOKEN, "role": "viewer"}).status_code == 422
    for length in (480, 490):  # a path is cut in the log
        client.get(f"/v1/keys/{'x' * length}-{TOKEN}")
    answer = client.post("/v1/jobs", json={**good, "x" * 245 + "-" + TOKEN: 1})  # and a key in an error
    assert TOKEN[:8] not in answer.text + stderr.getvalue()
    assert "/v1/keys/***" in stderr.getvalue()


INNOCENT: list[Body] = [
    {"overrides": {KWARGS: {"eos_token": "<eos>", "user_token": "<|u|>", "image_token": "I"}}},
    {"overrides": {KWARGS: {"use_auth_token": True, "token": None, "pad_token": "<pad>"}}},
    {"overrides": {"model.moe_token_dispatcher_type": "alltoall", "model.calculate_per_token_loss": True}},
    {"overrides": {"logger.mlflow_tags": {"tokens": "9", "key": "v", "author": "", "sha": "0a1b2c3d" * 5}}},
    {"overrides": {"logger.wandb_exp_name": "secret: 50% @home", "logger.comet_tags": ["bearer"]}},
    {"labels": {"team": "authors@example.com", "num_tokens": "5"}},
    {"labels": {"source": "ssh://git@github.com/x", "part": "region_KEY=20240101/part"}},
    {"overrides": {KWARGS: {"assistant_token": "A", "reasoning_token": "R"}}},
    {"labels": {"run": "sft_of_nemotron-nano-9b-v2_on_the_support_data_set"}},
    {"labels": {"token": "4b", "auth": "sso", "secret": "no", "password": "none"}},
    {"labels": {"base": "hf_" + "0a1b2c3d" * 5, "run": "sft_12345678-90ab-cdef-1234-567890abcdef"}},
    {"name": "hf-nemotron", "labels": {"tracker": "postgresql://mlflow@db/mlflow"}},
    {"labels": {"url": "https://a/issues/1?page=2#top", "model": "nvidia/Nemotron-Nano-9B-v2@main"}},
]  # fmt: skip


@pytest.mark.parametrize("change", INNOCENT)
def test_what_only_resembles_a_secret_is_accepted(client: TestClient, good: Body, change: Body) -> None:
    model = {"hf_model_path": good["overrides"][0].partition("=")[2]}
    body = {**good, **change, "overrides": {**model, **change.get("overrides", {})}}
    answer = client.post("/v1/jobs:plan", json=body)
    assert answer.status_code == 200, answer.text


# -- interpolations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["${oc.env:HOME}", "${env:HOME}", "${oc.decode:${oc.env:HOME}}", "${oc.create:{a: 1}}",
     "${oc.select:a,b}", "${ oc.env : HOME }", "${oc.dict.values:a}", "a\\${b}", "$${seq_length}", "${"],
)  # fmt: skip
def test_an_interpolation_is_rejected_in_every_text(client: TestClient, good: Body, text: str) -> None:
    for pointer, change in PLACES.items():
        answer = client.post("/v1/jobs", json={**good, **change(text)})
        assert answer.status_code == 422
        assert (pointer, "interpolation") in [(e["pointer"], e["code"]) for e in answer.json()["errors"]]
    answer = client.post("/v1/jobs", json={**good, "inputs": {"checkpoint_megatron": text}})
    assert answer.json()["errors"][0]["code"] == "interpolation"
    assert client.post("/v1/jobs", json={**good, "name": text}).status_code == 422
    body = {"path": text}
    assert client.post("/v1/datasets:inspect", json=body).json()["errors"][0]["code"] == "interpolation"


@pytest.mark.parametrize(
    "text", ['"\\x24{oc.env:HOME}"', '"\\u0024\\x7boc.env:HOME}"', "{a: '${env:HOME}'}", "[x, '${a}']"]
)
def test_yaml_does_not_hide_an_interpolation(client: TestClient, good: Body, text: str) -> None:
    for change, pointer in (
        ({"overrides": [*good["overrides"], f"logger.mlflow_tags.a={text}"]}, "/overrides/1"),
        ({"args": ["--mixed-precision", text]}, "/args/"),
    ):
        [error] = client.post("/v1/jobs", json={**good, **change}).json()["errors"]
        assert error["code"] == "interpolation"
        assert error["pointer"].startswith(pointer)


def test_a_retry_takes_no_interpolation(client: TestClient, good: Body) -> None:
    job = client.post("/v1/jobs", json=good).json()["id"]
    with writing() as session:
        row = session.get_one(Job, job)
        spec = {**row.spec, "labels": {"team": "${oc.env:HOME}"}}
        row.sqlmodel_update({"state": JobState.FAILED, "spec": spec})
    answer = client.post(f"/v1/jobs/{job}/retry", json={"overrides": {"train.train_iters": 3}})
    error = answer.json()["errors"][0]
    assert (error["pointer"], error["code"]) == ("/job/spec/labels/team", "interpolation")


# -- URIs ------------------------------------------------------------------------------------------


URI_KEYS = (
    "logger.mlflow_tracking_uri", "logger.tensorboard_dir", "logger.wandb_save_dir", "checkpoint.save",
    "logger.save_config_filepath", "checkpoint.non_persistent_global_ckpt_dir", "checkpoint_megatron",
    "tokenizer.chat_template_path", "dataset.hf_output_root", "hf_model_path",
)  # fmt: skip


@pytest.mark.parametrize(
    "uri",
    [
        "FILE:/tmp/x", "File:///tmp/x", " file:/tmp/x", "file:relative", "file%3A/tmp/x", "%66ile:/tmp/x",
        "sqlite:x.db", "SQLite:////tmp/x", "sqlite+pysqlite:x", "file:\\tmp\\x", "\\tmp\\x", "..\\..\\x",
        "a\\..\\..\\x", "%2Ftmp%2Fx", "a/%2e%2e/%2e%2e/x", "%252Ftmp", "msc:x", "MSC://x/y", "s3:x", "S3://x/y",
        "dbfs:/x", "\u00a0/etc/x", "zip:/x",
    ],
)  # fmt: skip
def test_a_uri_in_disguise_must_lie_under_the_roots(client: TestClient, good: Body, uri: str) -> None:
    model = {"hf_model_path": good["overrides"][0].partition("=")[2]}
    for key in URI_KEYS:
        answer = client.post("/v1/jobs", json={**good, "overrides": {**model, key: uri}})
        assert answer.status_code == 422
        assert [one["code"] for one in answer.json()["errors"]] == ["path_not_allowed"], key


URI_PLACES = {
    "/inputs/packed_parquet": lambda uri: {"inputs": {"packed_parquet": uri}},
    "/inputs/checkpoint_megatron": lambda uri: {"inputs": {"checkpoint_megatron": uri}},
    "/args/0": lambda uri: {"args": ["--checkpoint-megatron", uri]},
    "/overrides/0": lambda uri: {"overrides": [f"logger.mlflow_tracking_uri={uri}"]},
    "/overrides/logger": lambda uri: {"overrides": {"logger": {"mlflow_tracking_uri": uri}}},
    "/config/logger/mlflow_tracking_uri": lambda uri: {"config": {"logger": {"mlflow_tracking_uri": uri}}},
    "/config/dataset/nano3_packed_sft_dir": lambda uri: {
        "config": {"dataset": {"nano3_packed_sft_dir": uri}}
    },
}


@pytest.mark.parametrize("uri", ["file:/tmp/x", "FILE:///tmp/x", "File:relative"])
@pytest.mark.parametrize(("pointer", "change"), URI_PLACES.items(), ids=URI_PLACES)
def test_a_file_uri_is_a_path_in_every_place(
    client: TestClient, good: Body, pointer: str, change: Callable[[str], Body], uri: str
) -> None:
    answer = client.post("/v1/jobs:plan", json={"name": "test", "config": "cpu-tiny", **change(uri)})
    found = answer.json().get("checks") or answer.json()["errors"]
    assert (pointer, "path_not_allowed") in [(one["pointer"], one["code"]) for one in found]


def test_a_tracking_uri_is_never_relative(client: TestClient, good: Body) -> None:
    body = {**good, "overrides": [*good["overrides"], "logger.mlflow_tracking_uri=mlruns"]}
    assert client.post("/v1/jobs", json=body).json()["errors"][0]["code"] == "path_not_allowed"
