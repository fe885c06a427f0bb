"""Configs and overrides written for NVIDIA's current manifest mean the same as those for the seed's."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.packed_data import packs, write_shard

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
Body = dict[str, Any]


@pytest.fixture
def seed(good: Body) -> Body:
    """Return a config in the seed's keys."""
    model = next(one for one in good["overrides"] if one.startswith("hf_model_path="))
    return {
        "device": "cpu",
        "hf_model_path": model.partition("=")[2],
        "seq_length": 512,
        "peft": "lora",
        "lora": {"dim": 8, "alpha": 32, "dropout": 0.0, "target_modules": ["linear_qkv"]},
        "dataset": {"nano3_packed_sft_dir": f"{good['inputs']['packed_parquet']}/splits/train"},
        "train": {"train_iters": 3, "global_batch_size": 1, "micro_batch_size": 1},
    }


@pytest.fixture
def current(seed: Body) -> Body:
    """Return the same config in the keys of the current manifest."""
    packed = Path(seed["dataset"]["nano3_packed_sft_dir"])
    return {
        "device": "cpu",
        "hf_model_path": seed["hf_model_path"],
        "load_hf_weights": True,
        "recipe": {"packed_sequence": True, "peft": "lora", "seq_length": 512},
        "peft": {"type": "lora", **seed["lora"]},
        "dataset": {
            "seq_length": 512,
            "packed_sequence_specs": {
                "packed_sequence_size": 512,
                "packed_train_data_path": str(packed),
                "packed_val_data_path": str(packed.parent / "valid"),
            },
        },
        "train": seed["train"],
        "model": {"seq_length": 512},
    }


def request(config: Any, **spec: Any) -> Body:
    return {"name": "manifest", "config": config, **spec}


def planned(client: TestClient, body: Body) -> Body:
    answer = client.post("/v1/jobs:plan", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def faults(client: TestClient, body: Body) -> list[Body]:
    """Errors of a plan, whichever way they are reported."""
    answer = client.post("/v1/jobs:plan", json=body)
    if answer.status_code == 422:
        return list(answer.json()["errors"])
    return [
        {**one, "detail": one["message"]} for one in answer.json()["checks"] if one["severity"] == "error"
    ]


def test_a_config_for_the_current_manifest_gives_the_plan_of_the_seeds(
    client: TestClient, seed: Body, current: Body
) -> None:
    plan = planned(client, request(current))
    assert plan["ok"], plan["checks"]
    valid = current["dataset"]["packed_sequence_specs"]["packed_val_data_path"]
    seed["dataset"]["packed_val_data_path"] = valid
    same = planned(client, request(seed))
    assert plan["config"] == same["config"]
    assert plan["plan_hash"] == same["plan_hash"]
    assert plan["config"]["dataset"]["packed_val_data_path"] == valid
    assert plan["values"]["lora.dim"] == {"value": 8, "source": "config"}
    job = client.post("/v1/jobs", json=request(current))
    assert (job.status_code, job.json()["config"]["seq_length"]) == (201, 512), job.text


def test_overrides_for_the_current_manifest(client: TestClient, current: Body, good: Body) -> None:
    packed = good["inputs"].pop("packed_parquet")
    specs = "dataset.packed_sequence_specs"
    overrides = [
        *good["overrides"], "recipe.peft=lora", "peft.dim=8", "recipe.packed_sequence=true",
        "peft={target_modules: [linear_proj]}", "recipe.seq_length=512", "dataset.seq_length=512",
        f"{specs}.packed_sequence_size=512",
        f"{specs}={{packed_train_data_path: {packed}/splits/train/*.parquet}}",
    ]  # fmt: skip
    plan = planned(client, {**good, "overrides": overrides})
    assert plan["ok"], plan["checks"]
    config = plan["config"]
    assert (config["peft"], config["seq_length"]) == ("lora", 512)
    assert config["lora"] == {"dim": 8, "target_modules": ["linear_proj"]}
    assert config["dataset"] == {
        "nano3_packed_sft_dir": f"{packed}/splits/train/*.parquet",
        "packed_val_data_path": None,
    }
    assert config["recipe"].keys().isdisjoint({"peft", "seq_length", "packed_sequence"})
    # A block `peft` means LoRA; null means full fine-tuning, whatever the preset has.
    assert (
        planned(client, {**good, "overrides": [*good["overrides"], "peft.dim=8"]})["config"]["peft"] == "lora"
    )
    full = planned(client, request("default", overrides=["recipe.peft=null"]))
    assert full["config"]["peft"] is None


def test_overrides_win_over_the_other_spelling_of_a_config(client: TestClient, current: Body) -> None:
    plan = planned(client, request(current, overrides=["peft=null", "seq_length=1024", "lora.dim=4"]))
    config = plan["config"]
    assert (config["peft"], config["seq_length"], config["lora"]["dim"]) == (None, 1024, 4)
    other = request({**current, "dataset": {}}, overrides=["dataset.seq_length=512"])
    assert planned(client, other)["config"]["seq_length"] == 512
    del current["recipe"], current["model"]
    config = {**current, "dataset": {}}
    plan = planned(client, request(config, overrides=["dataset={seq_length: 512}"]))
    assert plan["values"]["seq_length"] == {"value": 512, "source": "override"}
    [fault] = faults(client, request(config, overrides=["model={seq_length: many}"]))
    assert (fault["code"], fault["pointer"]) == ("int_parsing", "/overrides/0")


@pytest.mark.parametrize(
    "overrides",
    [
        ["peft=null", "peft.dim=8"], ["peft.dim=8", "peft=null"], ["peft.dim=8", "recipe.peft=null"],
        ["recipe.peft=null", "peft={dim: 8}"], {"peft.dim": 8, "peft": None},
    ],
)  # fmt: skip
def test_adapter_settings_imply_lora_only_where_nothing_else_is_written(
    client: TestClient, good: Body, overrides: Any
) -> None:
    if isinstance(overrides, list):
        overrides = [*good["overrides"], *overrides]
    else:
        overrides |= dict(one.split("=", 1) for one in good["overrides"])
    config = planned(client, {**good, "overrides": overrides})["config"]
    assert (config["peft"], config["lora"]["dim"]) == (None, 8)


def test_a_config_may_write_that_there_is_no_adapter(client: TestClient, current: Body) -> None:
    changed = {**current, "peft": {"dim": 8}, "recipe": {**current["recipe"], "peft": None}}
    assert planned(client, request(changed))["config"]["peft"] is None


@pytest.mark.parametrize("overrides", [["peft.type=dora", "peft.dim=8"], ["peft.dim=8", "peft.type=dora"]])
def test_a_wrong_type_of_adapter_is_named_as_it_was_written(
    client: TestClient, good: Body, overrides: list[str]
) -> None:
    [fault] = faults(client, {**good, "overrides": overrides})
    where = f"/overrides/{overrides.index('peft.type=dora')}"
    assert (fault["code"], fault["pointer"]) == ("literal_error", where)


@pytest.mark.parametrize(
    ("overrides", "first", "second"),
    [
        (["recipe.peft=lora", "peft=null"], "recipe.peft", "peft"),
        (["seq_length=512", "recipe.seq_length=1024"], "seq_length", "recipe.seq_length"),
        (["lora.dim=4", "peft.dim=8"], "lora.dim", "peft.dim"),
        (["lora={dim: 4}", "peft={type: lora, dim: 8}"], "lora.dim", "peft.dim"),
        (["recipe.peft=null", "peft.type=lora"], "recipe.peft", "peft.type"),
        (["checkpoint_megatron=/a", "checkpoint={pretrained_checkpoint: /b}"], "checkpoint_megatron",
         "checkpoint.pretrained_checkpoint"),
        (["dataset.nano3_packed_sft_dir=/a", "dataset.packed_sequence_specs.packed_train_data_path=/b"],
         "dataset.nano3_packed_sft_dir", "dataset.packed_sequence_specs.packed_train_data_path"),
    ],
)  # fmt: skip
def test_two_spellings_must_agree(
    client: TestClient, good: Body, overrides: list[str], first: str, second: str
) -> None:
    [fault] = faults(client, {**good, "overrides": overrides})
    assert (fault["code"], fault["pointer"]) == ("contradiction", "/overrides/1")
    assert f"{first} (/overrides/0) and {second} (/overrides/1)" in fault["detail"]


def test_two_spellings_of_a_config_must_agree(client: TestClient, current: Body) -> None:
    [fault] = faults(client, request({**current, "seq_length": 256}))
    assert (fault["code"], fault["pointer"]) == ("contradiction", "/config/recipe/seq_length")
    assert "seq_length (/config/seq_length) and recipe.seq_length (/config/recipe" in fault["detail"]
    packed = current["dataset"]["packed_sequence_specs"]["packed_train_data_path"]
    override = f"dataset.packed_sequence_specs.packed_train_data_path={packed}"
    [fault] = faults(
        client, request("cpu-tiny", overrides=[override], inputs={"packed_parquet": "/elsewhere"})
    )
    assert (fault["code"], fault["pointer"]) == ("contradiction", "/inputs/packed_parquet")
    assert "/overrides/0" in fault["detail"]


def test_different_lengths_are_a_finding_that_names_both(client: TestClient, current: Body) -> None:
    del current["recipe"]["seq_length"]
    current["model"]["seq_length"] = 1024
    [fault] = [
        one for one in faults(client, request(current)) if one["pointer"] == "/config/model/seq_length"
    ]
    assert fault["code"] == "seq_length_mismatch"
    assert "model.seq_length is 1024" in fault["detail"]
    assert "dataset.seq_length" in fault["detail"]
    current["model"] = {}
    current["dataset"]["packed_sequence_specs"]["packed_sequence_size"] = 2048
    where = "/config/dataset/packed_sequence_specs/packed_sequence_size"
    assert where in [one["pointer"] for one in faults(client, request(current))]


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("recipe.packed_sequence", False, "wrong_value"),
        ("recipe.packed_sequence", "yes", "wrong_value"),
        ("load_hf_weights", False, "wrong_value"),
        ("run", {"env": {"mounts": ["/lustre:/lustre"]}}, "not_settable"),
        ("trust_remote_code", True, "runs_code"),
        ("dataset.trust_remote_code", True, "runs_code"),
        ("recipe.peft", "dora", "literal_error"),
        ("recipe.peft", {"dim": 8}, "literal_error"),
        ("peft", {}, "literal_error"),
        ("peft", {"dim": 8, "a.b": 1}, "literal_error"),
        ("peft", {"type": "lora", "a.b": 1}, "contradiction"),
        ("dataset.packed_sequence_specs", {"a.b": 1, "": 2}, "unknown_key"),
        ("peft.type", "dora", "literal_error"),
        ("peft.rank", 8, "unknown_key"),
        ("peft.dim", "many", "wrong_value"),
        ("recipe.seq_length", "many", "int_parsing"),
        ("recipe.seq_length", None, "int_type"),
        ("dataset.packed_sequence_specs.packed_train_data_path", "/etc", "path_not_allowed"),
        ("dataset.packed_sequence_specs.packed_val_data_path", "/etc", "path_not_allowed"),
        ("dataset.packed_sequence_specs.packed_val_data_path", 3, "string_type"),
        ("dataset.packed_sequence_specs.packed_sequenze_size", 3, "unknown_key"),
        ("dataset.packed_sequence_specs.hf_token", "x", "secret_in_request"),
        ("dataset.packed_sequence_specs", "text", "unknown_key"),
        ("checkpoint.pretrained_checkpoint", "/etc", "path_not_allowed"),
        ("checkpoint.pretrained_checkpoint", ["/etc"], "string_type"),
    ],
)  # fmt: skip
def test_a_fault_points_at_the_key_that_was_written(
    client: TestClient, good: Body, seed: Body, key: str, value: Any, code: str
) -> None:
    good["inputs"] = {}
    found = faults(client, {**good, "overrides": {"hf_model_path": seed["hf_model_path"], key: value}})
    assert (f"/overrides/{key}", code) in [(one["pointer"], one["code"]) for one in found]
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    found = faults(client, request({"hf_model_path": seed["hf_model_path"], "device": "cpu", **nested}))
    wanted = "/config/" + key.replace(".", "/")
    assert [code for one in found if one["pointer"].startswith(wanted)][:1] == [code], found


def test_a_message_says_what_to_do(client: TestClient, good: Body) -> None:
    [fault] = faults(client, {**good, "overrides": {"run": {"env": {"mounts": ["/a:/b"]}}}})
    assert "cluster's profile" in fault["detail"]
    assert "`cluster`" in fault["hint"]
    [fault] = faults(client, {**good, "overrides": ["trust_remote_code=true"]})
    assert "Omit it" in fault["hint"]


def test_a_checkpoint_replaces_the_weights_of_hugging_face(client: TestClient, current: Body) -> None:
    current |= {"load_hf_weights": False, "checkpoint": {"pretrained_checkpoint": current["hf_model_path"]}}
    found = faults(client, request(current))
    assert [one["code"] for one in found] == ["bad_checkpoint"]  # it is accepted and read: it is none
    assert found[0]["pointer"] == "/config/checkpoint/pretrained_checkpoint"


def test_data_for_validation_are_inspected(client: TestClient, current: Body, data_dir: Path) -> None:
    valid = data_dir / "inputs" / "held-out"
    current["dataset"]["packed_sequence_specs"]["packed_val_data_path"] = f"{valid}/a-*.parquet"
    where = "/config/dataset/packed_sequence_specs/packed_val_data_path"
    [missing] = faults(client, request(current))
    assert (missing["code"], missing["pointer"]) == ("missing_packed_data", where)
    columns = packs(8)
    columns["loss_mask"][5] = [1]
    write_shard(valid / "a-1.parquet", columns)
    [bad] = faults(client, request(current))
    assert (bad["code"], "a-1.parquet, row 5" in bad["detail"]) == ("bad_packed_data", True)
    write_shard(valid / "a-1.parquet", packs(8))
    assert faults(client, request(current)) == []
    outside = data_dir / "outside"
    write_shard(outside / "a-2.parquet", packs(8))
    (valid / "a-2.parquet").symlink_to(outside / "a-2.parquet")
    [linked] = faults(client, request(current))
    assert (linked["code"], linked["pointer"]) == ("path_not_allowed", where)
    forbidden = {**current["dataset"]["packed_sequence_specs"], "packed_val_data_path": str(outside)}
    current["dataset"]["packed_sequence_specs"] = forbidden
    [rejected] = faults(client, request(current))
    assert (rejected["code"], rejected["pointer"]) == ("path_not_allowed", where)


def test_the_lightning_model_is_offered(client: TestClient) -> None:
    models = client.get("/v1/models").json()["items"]
    assert any("Nemotron-3.5-Lightning" in one["id"] for one in models)
