"""The content of a plan: source of each value, automatic adjustments, drift since a plan hash."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from worker.planning.plan import GPU_DRIVER

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
Body = dict[str, Any]


def planned(client: TestClient, body: Body) -> Body:
    answer = client.post("/v1/jobs:plan", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_each_value_names_its_source(client: TestClient, good: Body) -> None:
    overrides = [*good["overrides"], "optimizer.lr=1e-4", "recipe.tensor_model_parallel_size=1"]
    values = planned(client, {**good, "overrides": overrides, "args": ["--seq-length", "512"]})["values"]
    expected = {
        "optimizer.lr": (1e-4, "override"),
        "model.tensor_model_parallel_size": (1, "override"),
        "seq_length": (512, "argument"),
        "dataset.nano3_packed_sft_dir": (good["inputs"]["packed_parquet"], "input"),
        "train.train_iters": (50, "preset"),
        "device": ("cpu", "preset"),
        "checkpoint_megatron": (None, "default"),
        "ddp.use_distributed_optimizer": (True, "recipe"),
    }
    assert {key: (values[key]["value"], values[key]["source"]) for key in expected} == expected


def test_a_complete_config_is_checked_like_a_preset(client: TestClient, good: Body) -> None:
    inline = {**good, "config": {"device": "cpu", "train": {"train_itters": 5}}}
    answer = client.post("/v1/jobs", json=inline)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/config/train/train_itters", "unknown_key")
    assert "'train.train_iters'" in error["hint"]


def test_a_misspelt_override_is_rejected_by_plan_and_post(client: TestClient, good: Body) -> None:
    body = {**good, "overrides": [*good["overrides"], "train.gloabl_batch_size=8"]}
    for url in ("/v1/jobs:plan", "/v1/jobs"):
        answer = client.post(url, json=body)
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert error["pointer"] == f"/overrides/{len(good['overrides'])}"
        assert "'train.global_batch_size'" in error["hint"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"overrides": ["optimizer.lr=1e-3"]}, "config"),
        ({"resources": {"time_limit_minutes": 7}}, "resources"),
    ],
)
def test_plan_drift_names_the_changed_part(client: TestClient, good: Body, change: Body, part: str) -> None:
    agreed = planned(client, good)["plan_hash"]
    overrides = [*good["overrides"], *change.get("overrides", [])]
    answer = client.post("/v1/jobs", json={**good, **change, "overrides": overrides, "plan_hash": agreed})
    assert (answer.status_code, answer.json()["code"]) == (409, "plan_drift")
    assert part in answer.json()["detail"]
    assert client.post("/v1/jobs", json={**good, "plan_hash": agreed}).status_code == 201


def test_a_preset_shows_its_effective_values(client: TestClient) -> None:
    preset = client.get("/v1/presets/nano3").json()
    assert preset in client.get("/v1/presets").json()["items"]
    assert preset["recipe"] == "nemotron_3_nano_sft_config"
    parameters = {one["name"]: one for one in preset["parameters"]}
    assert parameters["seq_length"]["choices"] == [2048, 4096, 8192, 16384, 32768]
    assert parameters["seq_length"]["value"] == 4096
    assert parameters["peft"]["choices"] == ["lora", None]
    assert parameters["recipe.tensor_model_parallel_size"]["value"] == 1
    assert preset["values"]["train.train_iters"] == {"value": 1700, "source": "preset"}
    assert preset["values"]["model.num_moe_experts"] == {"value": 128, "source": "recipe"}


def test_a_schema_accepts_what_the_service_accepts(client: TestClient) -> None:
    from jsonschema import Draft202012Validator

    for preset in client.get("/v1/presets").json()["items"]:
        schema = client.get("/v1/schema", params={"preset": preset["name"]}).json()
        Draft202012Validator.check_schema(schema)
        validator = Draft202012Validator(schema)
        assert list(validator.iter_errors(preset["config"])) == []
        assert list(validator.iter_errors({"train": {"gloabl_batch_size": 8}}))
        assert list(validator.iter_errors({"train": {"global_batch_size": "many"}}))
        iterations = schema["properties"]["train"]["properties"]["train_iters"]
        assert iterations["default"] == preset["config"]["train"]["train_iters"]
    assert client.get("/v1/schema", params={"preset": "nanno3"}).status_code == 404


def test_unusable_base_models_are_reported(client: TestClient, good: Body, data_dir: Path) -> None:
    (data_dir / "inputs" / "model" / "model.safetensors").unlink()
    bare = planned(client, good)
    assert ("bad_checkpoint", "/overrides/0") in [(one["code"], one["pointer"]) for one in bare["checks"]]
    loading = {**good, "overrides": [*good["overrides"], f"checkpoint.load={data_dir / 'inputs' / 'none'}"]}
    found = {one["pointer"]: one["code"] for one in planned(client, loading)["checks"]}
    assert found[f"/overrides/{len(good['overrides'])}"] == "bad_checkpoint"
    assert "/overrides/0" not in found  # the weights are not read


def test_a_plan_warns_of_a_machine_without_gpus(client: TestClient, good: Body) -> None:
    for config, seen in (("nano3", not GPU_DRIVER.exists()), ("cpu-tiny", False)):
        codes = [
            one["code"] for one in planned(client, {**good, "config": config, "overrides": []})["checks"]
        ]
        assert ("no_gpu_seen" in codes) is seen
