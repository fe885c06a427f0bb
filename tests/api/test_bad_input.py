"""Invalid input gets an error that says what to do, and stores nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.process import forget_settings

Body = dict[str, Any]

# Rejected input never reaches the database: one kind of database is enough.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def rejected(client: TestClient, body: Body, pointer: str, code: str) -> Body:
    """Post a job that must be rejected, and return the error at the pointer."""
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    faults = {fault["pointer"]: fault for fault in answer.json()["errors"]}
    assert pointer in faults, faults
    assert faults[pointer]["code"] == code
    assert client.get("/v1/jobs").json()["items"] == []
    fault: Body = faults[pointer]
    return fault


def test_the_unchanged_body_is_valid(client: TestClient, good: Body) -> None:
    assert client.post("/v1/jobs", json=good).status_code == 201
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_an_unknown_field_names_the_nearest(client: TestClient, good: Body) -> None:
    fault = rejected(client, {**good, "overides": []}, "/overides", "extra_forbidden")
    assert "'overrides'" in fault["hint"]


def test_a_top_level_training_parameter_hints_at_overrides(client: TestClient, good: Body) -> None:
    fault = rejected(client, {**good, "seq_len": 512}, "/seq_len", "extra_forbidden")
    assert "'seq_length'" in fault["hint"]
    assert "overrides" in fault["hint"]


def test_an_unknown_key_of_the_config_names_the_nearest(client: TestClient, good: Body) -> None:
    body = {**good, "overrides": [*good["overrides"], "seq_lenght=512"]}
    assert "'seq_length'" in rejected(client, body, "/overrides/1", "extra_forbidden")["hint"]
    body = {**good, "overrides": {"recipe.tensor_model_parallel": 2}}
    fault = rejected(client, body, "/overrides/recipe.tensor_model_parallel", "unknown_key")
    assert "'recipe.tensor_model_parallel_size'" in fault["hint"]
    body = {**good, "config": {"seq_length": "many"}}
    rejected(client, body, "/config/seq_length", "int_parsing")


@pytest.mark.parametrize("name", ["", "Upper", "-x", "x-", "a" * 64, "a b", "a/b", "a\n", "ü", None, 7])
def test_a_name_must_match_its_pattern(client: TestClient, good: Body, name: Any) -> None:
    answer = client.post("/v1/jobs", json={**good, "name": name})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/name"


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"attached": "perhaps"}, "/attached"),
        ({"config": 7}, "/config"),
        ({"overrides": 7}, "/overrides"),
        ({"labels": {"team": 7}}, "/labels/team"),
        ({"inputs": {"packed_parquet": 7}}, "/inputs/packed_parquet"),
        ({"resources": {"nodes": "two"}}, "/resources/nodes"),
    ],
)
def test_a_wrong_type_is_pointed_at(client: TestClient, good: Body, change: Body, pointer: str) -> None:
    answer = client.post("/v1/jobs", json={**good, **change})
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_a_missing_name_is_pointed_at(client: TestClient, good: Body) -> None:
    del good["name"]
    assert "'name'" in rejected(client, good, "/name", "missing")["detail"]


def test_a_body_that_is_not_sent_as_json_is_415(client: TestClient, good: Body) -> None:
    answer = client.post("/v1/jobs", content=json.dumps(good), headers={"Content-Type": "text/plain"})
    assert (answer.status_code, answer.json()["code"]) == (415, "not_json")


def test_unknown_presets_and_clusters_name_the_nearest(client: TestClient, good: Body) -> None:
    assert (
        "'cpu-tiny'" in rejected(client, {**good, "config": "cpu-tny"}, "/config", "unknown_preset")["detail"]
    )
    assert "'local'" in rejected(client, {**good, "cluster": "locl"}, "/cluster", "unknown_cluster")["hint"]


@pytest.mark.parametrize("field", ["nodes", "gpus_per_node", "time_limit_minutes"])
def test_resources_must_be_between_one_and_the_cluster_limit(
    client: TestClient, good: Body, field: str
) -> None:
    rejected(client, {**good, "resources": {field: 0}}, f"/resources/{field}", "greater_than_equal")
    rejected(client, {**good, "resources": {field: 10**400}}, f"/resources/{field}", "less_than_equal")
    fault = rejected(
        client, {**good, "resources": {field: 1_000_000}}, f"/resources/{field}", "beyond_cluster"
    )
    assert "at most" in fault["hint"]


def test_missing_data_names_the_reference_recovery(client: TestClient, good: Body, data_dir: Path) -> None:
    pointer = "/inputs/packed_parquet"
    empty = data_dir / "inputs" / "empty"
    for path in (empty, data_dir / "inputs" / "nowhere"):
        fault = rejected(
            client, {**good, "inputs": {"packed_parquet": str(path)}}, pointer, "missing_packed_data"
        )
        assert "data_prep/sft_packing" in fault["hint"]
        empty.mkdir(exist_ok=True)
    rejected(client, {**good, "inputs": {}}, pointer, "missing_packed_data")


@pytest.mark.parametrize("path", ["/etc", "relative", "{root}/../admin.key", "{root}/link", "~/x"])
def test_paths_stay_under_the_allowed_roots(
    client: TestClient, good: Body, data_dir: Path, path: str
) -> None:
    (data_dir / "inputs" / "link").symlink_to("/etc")
    path = path.format(root=data_dir / "inputs")
    body = {**good, "inputs": {"packed_parquet": path}}
    rejected(client, body, "/inputs/packed_parquet", "path_not_allowed")
    # The error does not reveal whether the path exists.
    assert [fault["code"] for fault in client.post("/v1/jobs", json=body).json()["errors"]] == [
        "path_not_allowed"
    ]
    for key in ("checkpoint.save", "checkpoint.load", "checkpoint_megatron", "logger.tensorboard_dir"):
        body = {**good, "overrides": {**_model(good), key: path}}
        rejected(client, body, f"/overrides/{key}", "path_not_allowed")


def _model(good: Body) -> Body:
    return {"hf_model_path": good["overrides"][0].partition("=")[2]}


def test_a_local_model_without_a_config_is_rejected(client: TestClient, good: Body, data_dir: Path) -> None:
    (data_dir / "inputs" / "nothing").mkdir()
    body = {**good, "overrides": [f"hf_model_path={data_dir}/inputs/nothing"]}
    rejected(client, body, "/overrides/0", "bad_checkpoint")


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "\x1b", "\u2028", "\ud800"])
@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"labels": {"team": "a{}b"}}, "/labels/team"),
        ({"inputs": {"packed_parquet": "/a{}b"}}, "/inputs/packed_parquet"),
        ({"overrides": ["hf_model_path=/a{}b"]}, "/overrides/0"),
        (
            {"overrides": {"tokenizer": {"tokenizer_model": ["a{}b"]}}},
            "/overrides/tokenizer/tokenizer_model/0",
        ),
        ({"config": {"hf_model_path": "/a{}b"}}, "/config/hf_model_path"),
        ({"secrets": {"HF_TOKEN": "a{}b"}}, "/secrets/HF_TOKEN"),
    ],
)
def test_control_characters_are_rejected_everywhere(
    client: TestClient, good: Body, change: Body, pointer: str, character: str
) -> None:
    text = json.dumps({**good, **change}).replace("{}", json.dumps(character)[1:-1])
    answer = client.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert client.get("/v1/jobs").json()["items"] == []


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ('hf_model_path="/a\\nb"', "control_character"),
        ('train={"a\\0b": 1}', "control_character"),
        ("train.x=.nan", "not_finite"),
        ("optimizer.lr=1e999", "not_finite"),
        ("train.x=[1, -.inf]", "not_finite"),
        ("train.x=!!binary aGk=", "invalid-json-value"),
        ("train={1: 2}", "string_type"),
        ("train.x=!!set {a}", "not_an_override"),
        ("train.x=!!python/object:os.system []", "not_an_override"),
        ("train.x=&a [*a]", "not_an_override"),
        ("train.x=" + "[" * 5000 + "]" * 5000, "not_an_override"),
        ("train." * 3000 + "x=1", "not_an_override"),
        ("train.x=" + "[" * 40 + "]" * 40, "not_an_override"),
        ("train.x=!!bool x", "not_an_override"),
        ("train.x=!!timestamp x", "not_an_override"),
        ("dataset=1", "model_type"),
        ("checkpoint.save=null", "value_error"),
        ("checkpoint.save=[]", "value_error"),
        ("checkpoint.load=1", "value_error"),
        # An interpolation in disguise would read the service's environment.
        ('train.x="\\x24{oc.env:HOME}"', "interpolation"),
        ('train={x: "\\u0024{oc.env:HOME}"}', "interpolation"),
        ('train={"\\x24{oc.env:HOME}": 1}', "interpolation"),
        ("train.x=[a, '${oc.env:HOME}']", "interpolation"),
    ],
)
def test_the_yaml_value_of_an_override_must_be_json(
    client: TestClient, good: Body, override: str, code: str
) -> None:
    body = {**good, "overrides": [override]}
    assert rejected(client, body, "/overrides/0", code)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_nan_and_infinity_are_rejected(client: TestClient, good: Body, text: str) -> None:
    body = json.dumps({**good, "overrides": {"train.x": 0}}).replace('"train.x": 0', f'"train.x": {text}')
    answer = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "not_finite"), answer.text


@pytest.mark.parametrize("depth", [33, 100, 300, 990])
def test_nesting_has_a_limit(client: TestClient, good: Body, depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    for change in ({"overrides": {"train.x": value}}, {"config": {"train": {"x": value}}}):
        for url in ("/v1/jobs", "/v1/jobs:plan"):
            answer = client.post(url, json={**good, **change})
            assert answer.status_code == 422, answer.text
            assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(change))}"


@pytest.mark.parametrize("field", ["overrides", "config", "secrets", "labels"])
def test_a_key_that_utf_8_cannot_encode_is_rejected(client: TestClient, good: Body, field: str) -> None:
    text = json.dumps({**good, field: {"\ud800": "a"}})
    answer = client.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["errors"]


@pytest.mark.parametrize("where", ["overrides", "config", "labels", "name"])
def test_a_body_of_extreme_depth_is_rejected(client: TestClient, good: Body, where: str) -> None:
    for deep in (
        "[" * 100_000,
        '{"a":' * 100_000,
        "[" * 5000 + "]" * 5000,
        '{"a":' * 5000 + "1" + "}" * 5000,
    ):
        text = json.dumps({**good, where: 0}).replace(f'"{where}": 0', f'"{where}": {deep}')
        answer = client.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422), (deep[:10], answer.text[:200])
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "key",
    [
        "logger.save_config_filepath",
        "logger.wandb_save_dir",
        "tokenizer.hf_tokenizer_kwargs.any",
        "tokenizer.vocab_file",
    ],
)
def test_a_string_that_looks_like_a_path_must_lie_under_the_roots(
    client: TestClient, good: Body, key: str
) -> None:
    for path in ("/etc/cron.d/x", "a/../../b", "~/x", "file:///etc"):
        body = {**good, "overrides": {**_model(good), key: path}}
        rejected(client, body, f"/overrides/{key}", "path_not_allowed")


def test_a_model_is_an_id_of_the_hub_or_a_path_under_the_roots(client: TestClient, good: Body) -> None:
    for model in ("logs/../../../etc", "a/b/c", "file:///x", "../x", "a b"):
        body = {**good, "overrides": {"hf_model_path": model}}
        rejected(client, body, "/overrides/hf_model_path", "path_not_allowed")
    named = {
        **good,
        "overrides": {"hf_model_path": "nvidia/NVIDIA-Nemotron-Nano-9B-v2", "lora.target_modules": ["*.a/b"]},
    }
    assert client.post("/v1/jobs:plan", json=named).json()["ok"]


def test_the_same_input_named_twice_must_agree(client: TestClient, good: Body) -> None:
    path = good["inputs"]["packed_parquet"]
    same = {**good, "overrides": [*good["overrides"], f"dataset.nano3_packed_sft_dir={path}"]}
    assert client.post("/v1/jobs:plan", json=same).status_code == 200
    other = {**good, "overrides": [*good["overrides"], "dataset.nano3_packed_sft_dir=/other"]}
    rejected(client, other, "/inputs/packed_parquet", "contradiction")


@pytest.mark.parametrize(
    "override",
    [
        "no-equals",
        "=x",
        "a..b=1",
        "train.=1",
        "seq_length.x=1",
        "a=[1",
        "",
        "[=1",
        "a[0]=1",
        "a b=1",
        "\u00fc=1",
    ],
)
def test_a_malformed_override_is_rejected(client: TestClient, good: Body, override: str) -> None:
    answer = client.post("/v1/jobs", json={**good, "overrides": [override]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].startswith("/overrides/0")


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${seq_length}"])
def test_interpolations_are_rejected(client: TestClient, good: Body, text: str) -> None:
    rejected(client, {**good, "overrides": [f"hf_model_path={text}"]}, "/overrides/0", "interpolation")
    rejected(client, {**good, "config": {"hf_model_path": text}}, "/config/hf_model_path", "interpolation")


@pytest.mark.parametrize(
    "override",
    ["model._target_=os.system", "tokenizer.hf_tokenizer_kwargs={trust_remote_code: true}",
     "tokenizer.hf_tokenizer_kwargs.trust_remote_code=false", "lora=[{_target_: os.system}]"],
)  # fmt: skip
def test_no_request_names_code_to_run(client: TestClient, good: Body, override: str) -> None:
    rejected(client, {**good, "overrides": [override]}, "/overrides/0", "runs_code")
    dotted = {"overrides": {"model._target_.x": 1}}
    rejected(client, {**good, **dotted}, "/overrides/model._target_.x", "runs_code")
    inline = {"config": {"model": {"_target_": "os.system"}}}
    rejected(client, {**good, "overrides": [], **inline}, "/config/model/_target_", "runs_code")


def test_a_cluster_without_secrets_rejects_secrets(client: TestClient, good: Body) -> None:
    rejected(client, {**good, "secrets": {"HF_TOKEN": "team-hf"}}, "/secrets/HF_TOKEN", "unknown_secret")
    rejected(client, {**good, "secrets": {"LD_PRELOAD": "team-hf"}}, "/secrets/LD_PRELOAD", "not_a_variable")


def test_a_plan_that_has_changed_is_a_conflict(client: TestClient, good: Body) -> None:
    plan = client.post("/v1/jobs:plan", json=good).json()
    agreed = {**good, "plan_hash": plan["plan_hash"]}
    changed = {**agreed, "resources": {"time_limit_minutes": 7}}
    answer = client.post("/v1/jobs", json=changed)
    assert (answer.status_code, answer.json()["code"]) == (409, "plan_drift")
    assert client.post("/v1/jobs", json=agreed).status_code == 201


# -- HTTP itself -----------------------------------------------------------------------------------


def test_a_large_body_is_413_with_and_without_content_length(client: TestClient, good: Body) -> None:
    text = json.dumps({**good, "labels": {"x": "y" * (1 << 20)}}).encode()
    headers = {"Content-Type": "application/json"}
    chunks = (text[i : i + 65536] for i in range(0, len(text), 65536))
    for content in (text, chunks):
        answer = client.post("/v1/jobs", content=content, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")


@pytest.mark.parametrize("text", ["{", "", "nul", '{"name": }', b"\xff\xfe"])
def test_malformed_json_is_400(client: TestClient, text: str | bytes) -> None:
    answer = client.post("/v1/jobs", content=text, headers={"Content-Type": "application/json"})
    expected = 422 if text == "" else 400  # an empty body counts as a missing body
    assert answer.status_code == expected, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "url", ["/v1/jobs?owner=a%00b", "/v1/jobs/job%00", "/v1/jobs?labels[a]=%00", "/v1/presets/%00"]
)
def test_a_nul_in_a_url_is_400(client: TestClient, url: str) -> None:
    assert client.get(url).status_code == 400


@pytest.mark.parametrize(
    "url",
    ["/v1/jobs?limit=0", "/v1/jobs?limit=201", "/v1/jobs?state=HAPPY",
     "/v1/jobs?created_after=yesterday", "/v1/jobs?created_before=0.5", "/v1/jobs?created_after=-3.3e-196",
     "/v1/jobs?created_before=inf",
     "/v1/jobs?labels=team", "/v1/jobs?labels[]=docs", "/v1/jobs?labels[][team]=docs",
     "/v1/jobs?labels[team=docs",
     "/v1/jobs/JOB?wait=forever", "/v1/jobs/JOB/logs?offset=-1",
     "/v1/jobs/JOB/logs?tail=0", "/v1/jobs/JOB/events?after=99999999999999999999",
     "/v1/jobs/JOB/checkpoints/-1"],
)  # fmt: skip
def test_a_bad_parameter_is_pointed_at(client: TestClient, good: dict[str, Any], url: str) -> None:
    job = client.post("/v1/jobs", json=good).json()
    answer = client.get(url.replace("JOB", job["id"]))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"].split("/")[0] in ("query", "path")


def test_an_unknown_resource_is_404(client: TestClient) -> None:
    for url in ("/v1/nothing", "/v1/jobs/job-0", "/v1/jobs/job-0/logs", "/v1/presets/none", "/v1/jobs/"):
        answer = client.get(url)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert client.put("/v1/jobs").status_code == 405


def test_every_route_under_v1_requires_a_key(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    requests = 0
    for path, methods in paths.items():
        for method in methods:
            if path.startswith("/v1"):
                for headers in ({"Authorization": ""}, {"Authorization": "Bearer sft_wrong"}):
                    url = path.replace("{iteration}", "1")
                    answer = client.request(method, url, headers=headers)
                    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), path
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    requests += 1
    assert requests >= 30


def test_each_request_has_an_id(client: TestClient) -> None:
    answer = client.get("/v1/jobs/none", headers={"X-Request-ID": "portal-7"})
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == "portal-7"
    forged = client.get("/v1/jobs/none", headers={"X-Request-ID": "a b<script>"})
    assert forged.headers["X-Request-ID"] != "a b<script>"


# -- unavailable database or broker ----------------------------------------------------------------


def test_without_a_broker_nothing_is_stored_and_reads_succeed(
    client: TestClient, good: Body, environment: pytest.MonkeyPatch
) -> None:
    from worker.broker import app as celery

    nowhere = "redis+socket:///nowhere/broker.sock"
    environment.setattr(celery.app.conf, "broker_url", nowhere)
    environment.setattr(celery.app.conf, "broker_write_url", nowhere)
    answer = client.post("/v1/jobs", json=good)
    assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.json()["retryable"] is True
    ready = client.get("/readyz")
    assert [fault["pointer"] for fault in ready.json()["errors"]] == ["broker"]
    assert (ready.status_code, client.get("/healthz").status_code) == (503, 200)
    assert client.get("/v1/jobs").json()["items"] == []


def test_without_a_database_everything_is_503(
    client: TestClient, good: Body, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SFT_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    forget_settings()
    for answer in (client.post("/v1/jobs", json=good), client.get("/v1/jobs")):
        assert (answer.status_code, answer.json()["code"]) == (503, "service_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert [fault["pointer"] for fault in client.get("/readyz").json()["errors"]] == ["database"]


# -- the document ----------------------------------------------------------------------------------


def test_every_error_in_the_document_is_a_problem(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(document)
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            for status, response in route["responses"].items():
                if int(status) >= 400:
                    where = f"{method} {path} {status}"
                    assert list(response["content"]) == ["application/problem+json"], where
                    schema = response["content"]["application/problem+json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}, where
            if path.startswith("/v1"):
                assert {"400", "401", "500", "503", "507"} <= set(route["responses"]), path


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("recipe.load=/etc", "unknown_key"),
        ("recipe.hf_model_id=a/b", "use_own_key"),
        ("recipe.config_logger_dir=/etc", "path_not_allowed"),
        ("logger.wandb_save_dir=..", "path_not_allowed"),
        ("logger.mlflow_tracking_uri=file:/etc", "path_not_allowed"),
        ("checkpoint.custom_manager_class=os.system", "runs_code"),
        ("checkpoint.hf_trust_remote_code=true", "runs_code"),
        ("tensor_inspect.feature_dirs=[features]", "runs_code"),
        ("model._builder_=os.system", "runs_code"),
        ("tokenizer.hf_tokenizer_kwargs.custom_generate=x", "runs_code"),
        ("recipe._target_=megatron.bridge.recipes.nemotronh.gpt", "unknown_recipe"),
    ],
)
def test_no_config_key_bypasses_the_roots_or_runs_code(
    client: TestClient, good: Body, override: str, code: str
) -> None:
    rejected(client, {**good, "overrides": [*good["overrides"], override]}, "/overrides/1", code)


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("seq_length=0x" + "f" * 4000, "out_of_range"),
        ("model.hidden_size=1" + "0" * 400, "out_of_range"),
        ("recipe.tensor_model_parallel_size=1000000000000", "less_than_equal"),
        ("model.expert_model_parallel_size=1000000000000", "out_of_range"),
        ("model.tensor_model_parallel_size=0", "out_of_range"),
        ("train.x=[&a [1], *a]", "not_an_override"),
    ],
)
def test_numbers_and_texts_with_unbounded_cost_are_rejected(
    client: TestClient, good: Body, override: str, code: str
) -> None:
    rejected(client, {**good, "overrides": [*good["overrides"], override]}, "/overrides/1", code)


def test_many_layers_are_counted_and_not_listed(client: TestClient, good: Body) -> None:
    sizes = ["model.num_layers=1000000000000", "model.hidden_size=8"]
    plan = client.post("/v1/jobs:plan", json={**good, "overrides": [*good["overrides"], *sizes]}).json()
    assert plan["memory"]["parameters"] == 1000000000000 * (4 * 8 * 8 + 2 * 8 * 32)


def test_of_many_errors_only_the_first_are_reported(client: TestClient, good: Body) -> None:
    many = {"model": {f"tensor_model_parallel_siz{number}": 1 for number in range(5000)}}
    answer = client.post("/v1/jobs", json={**good, "config": many})
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 20)


def test_a_path_that_cannot_be_inspected_is_not_a_model(
    client: TestClient, good: Body, data_dir: Path
) -> None:
    inputs = data_dir / "inputs"
    (inputs / "loop").symlink_to(inputs / "loop")
    for name in ("loop", "a" * 300):
        body = {**good, "overrides": [f"hf_model_path={inputs / name}"]}
        rejected(client, body, "/overrides/0", "bad_checkpoint")
        body = {**good, "overrides": [*good["overrides"], f"checkpoint_megatron={inputs / name}"]}
        rejected(client, body, "/overrides/1", "bad_checkpoint")


@pytest.mark.parametrize("architectures", [5, [["GPT"]], {"a": 1}])
def test_an_invalid_model_config_is_not_a_service_error(
    client: TestClient, good: Body, data_dir: Path, architectures: Any
) -> None:
    values = {"architectures": architectures, "num_hidden_layers": 2, "hidden_size": 10**400}
    (data_dir / "inputs" / "model" / "config.json").write_text(json.dumps(values))
    assert client.post("/v1/jobs:plan", json=good).status_code == 200


def test_nothing_is_revealed_of_a_model_outside_the_roots(
    client: TestClient, good: Body, tmp_path: Path
) -> None:
    sizes = {"architectures": ["NemotronHForCausalLM"], "num_hidden_layers": 7, "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps({**sizes, "num_attention_heads": 5}))
    overrides = [f"hf_model_path={tmp_path}", "recipe.tensor_model_parallel_size=2"]
    body = {**good, "overrides": overrides, "resources": {"gpus_per_node": 2}}
    plan = client.post("/v1/jobs:plan", json=body).json()
    assert (plan["recipe"], plan["memory"]) == ("gpt", None)
    assert [one["code"] for one in plan["checks"] if one["severity"] == "error"] == ["path_not_allowed"]
