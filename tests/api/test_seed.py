"""NVIDIA's reference of the step sft/megatron_bridge: each test covers one of its statements."""

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.packed_data import make_dataset, packs, write_shard
from tests.support.process import forget_settings
from trainer.config.models import NANO, SUPER
from trainer.config.presets import load_preset
from trainer.failures import FAILURES
from worker.planning.spec import DEFAULT_PRESET

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
Body = dict[str, Any]

PROFILES = """
[lepton_sft_megatron_bridge]
executor = "local"
nodes = 2
gpus_per_node = 8
max_nodes = 8
gpu_type = "H100"
gpu_memory_gib = 80
roots = ["{root}"]

[slurm_sft_megatron_bridge]
executor = "local"
nodes = 2
gpus_per_node = 8
max_nodes = 8
gpu_type = "A100"
gpu_memory_gib = 40
roots = ["{root}"]
"""


@pytest.fixture
def root(tmp_path: Path, environment: pytest.MonkeyPatch) -> Path:
    """Return a directory that both profiles of the reference allow."""
    clusters = tmp_path / "clusters.toml"
    clusters.write_text(PROFILES.format(root=tmp_path / "lustre"))
    environment.setenv("SFT_CLUSTERS_FILE", str(clusters))
    environment.setenv("SFT_DEFAULT_CLUSTER", "slurm_sft_megatron_bridge")
    forget_settings()
    return tmp_path / "lustre"


@pytest.fixture
def packed(root: Path) -> Path:
    """Return data packed for the default length, with enough rows for every batch below."""
    return make_dataset(root / "packed", rows=300, pack_size=4096, tokenizer=NANO)


def planned(client: TestClient, body: Body) -> Body:
    answer = client.post("/v1/jobs:plan", json={"name": "seed", **body})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def given(packed: Path, **spec: Any) -> Body:
    return {"name": "seed", "inputs": {"packed_parquet": str(packed)}, **spec}


def errors(plan: Body) -> list[str]:
    return [check["code"] for check in plan["checks"] if check["severity"] == "error"]


# -- Command Examples ------------------------------------------------------------------------------


def test_run_the_tiny_validation_configuration_on_the_two_node_lepton_sft_profile(
    packed: Path, client: TestClient
) -> None:
    """nemotron steps run sft/megatron_bridge -c tiny -r lepton_sft_megatron_bridge"""
    spec = given(packed, config="tiny", cluster="lepton_sft_megatron_bridge", attached=True)
    answer = client.post("/v1/jobs", json=spec)
    assert answer.status_code == 201, answer.text
    plan = planned(client, spec)
    assert (plan["resources"]["nodes"], plan["gpus"]) == (2, 16)
    assert plan["config"]["train"]["train_iters"] == 10


def test_compile_the_default_configuration_without_submitting_the_job(
    packed: Path, client: TestClient
) -> None:
    """nemotron steps run sft/megatron_bridge -c default --dry-run"""
    plan = planned(client, given(packed, config="default"))
    assert plan["ok"]
    assert plan["config"]["peft"] == "lora"
    assert plan["submission"]
    assert client.get("/v1/jobs").json()["items"] == []


def test_submit_a_detached_lora_run_on_slurm_with_a_longer_sequence_length(
    root: Path, client: TestClient
) -> None:
    """... -c default -b slurm_sft_megatron_bridge peft=lora seq_length=8192 train.global_batch_size=256"""
    packed = make_dataset(root / "packed", rows=300, pack_size=8192, tokenizer=NANO)
    overrides = ["peft=lora", "seq_length=8192", "train.global_batch_size=256"]
    spec = given(
        packed, config="default", cluster="slurm_sft_megatron_bridge", attached=False, overrides=overrides
    )
    answer = client.post("/v1/jobs", json=spec)
    assert answer.status_code == 201, answer.text
    config = answer.json()["config"]
    assert (config["peft"], config["seq_length"], config["train"]["global_batch_size"]) == ("lora", 8192, 256)


def test_submit_an_attached_run_on_the_super3_base_model(packed: Path, client: TestClient) -> None:
    """... with eight-way tensor and four-way pipeline parallelism (on the 32 GPUs that it needs)"""
    overrides = [
        f"hf_model_path={SUPER}",
        "recipe.tensor_model_parallel_size=8",
        "recipe.pipeline_model_parallel_size=4",
    ]
    spec = given(
        packed, config="default", cluster="lepton_sft_megatron_bridge", attached=True, overrides=overrides
    )
    assert "too_few_gpus" in [check["code"] for check in planned(client, spec)["checks"]]
    plan = planned(client, {**spec, "resources": {"nodes": 4}})
    assert plan["ok"], plan["checks"]
    assert plan["gpus"] == 32
    expert = plan["values"]["model.expert_model_parallel_size"]
    assert expert == {"value": 8, "source": "fitted"}
    assert plan["config"]["recipe"]["expert_model_parallel_size"] == 8
    assert client.post("/v1/jobs", json={**spec, "resources": {"nodes": 4}}).status_code == 201


# -- Configuration Files ---------------------------------------------------------------------------


def test_the_configuration_files(client: TestClient) -> None:
    """default: two nodes, AutoBridge, LoRA; nano3: full SFT, 1,700 iterations, the programmatic default."""
    default, nano3, tiny = (load_preset(name) for name in ("default", "nano3", "tiny"))
    assert (default.resources.nodes, default.config["peft"], default.config["hf_model_path"]) == (
        2,
        "lora",
        NANO,
    )
    assert (nano3.config["peft"], nano3.config["train"]["train_iters"]) == (None, 1700)
    assert DEFAULT_PRESET == "nano3"
    assert len(client.get("/v1/presets").json()["items"]) == 4
    assert (tiny.resources.nodes, tiny.config["train"]["train_iters"] <= 20) == (2, True)


# -- Inputs and Outputs ----------------------------------------------------------------------------


def test_packed_parquet_is_required(client: TestClient, root: Path) -> None:
    assert errors(planned(client, {})) == ["missing_packed_data"]


def test_checkpoint_megatron_takes_precedence(packed: Path, client: TestClient, root: Path) -> None:
    """When this input is absent, the step loads weights from the Hugging Face model of hf_model_path."""
    named = given(packed)
    named["inputs"]["checkpoint_megatron"] = str(root / "base")
    plan = planned(client, named)
    [found] = [check for check in plan["checks"] if check["severity"] == "error"]
    assert (found["code"], found["pointer"]) == ("bad_checkpoint", "/inputs/checkpoint_megatron")


# -- Supported Models ------------------------------------------------------------------------------


def test_supported_models(client: TestClient, root: Path) -> None:
    models = {one["id"]: one for one in client.get("/v1/models").json()["items"]}
    assert (models[NANO]["min_gpus"], models[NANO]["default"]) == (8, True)
    assert (models[SUPER]["min_gpus"], models[SUPER]["default"]) == (32, False)


@pytest.mark.parametrize(("model", "gpus"), [(NANO, 4), (SUPER, 16)])
def test_fewer_than_the_minimum_gpus(packed: Path, client: TestClient, model: str, gpus: int) -> None:
    resources = {"nodes": max(1, gpus // 8), "gpus_per_node": min(gpus, 8)}
    plan = planned(client, given(packed, resources=resources, overrides=[f"hf_model_path={model}"]))
    assert "too_few_gpus" in errors(plan)


# -- Step Parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seq_length=8192", "seq_length", 8192),
        ("peft=null", "peft", None),
        (f"hf_model_path={SUPER}", "hf_model_path", SUPER),
        ("recipe.tensor_model_parallel_size=8", "model.tensor_model_parallel_size", 8),
        ("recipe.pipeline_model_parallel_size=4", "model.pipeline_model_parallel_size", 4),
        ("train.global_batch_size=128", "train.global_batch_size", 128),
    ],
)
def test_the_examples_of_the_parameters(
    packed: Path, client: TestClient, override: str, key: str, value: Any
) -> None:
    values = planned(client, given(packed, overrides=[override]))["values"]
    assert values[key] == {"value": value, "source": "override"}


def test_checkpoint_save_is_the_directory_where_the_recipe_writes(
    packed: Path, client: TestClient, root: Path
) -> None:
    """checkpoint.save=/lustre/runs/nano3-sft/checkpoints"""
    save = f"{root}/runs/nano3-sft/checkpoints"
    plan = planned(client, given(packed, overrides=[f"checkpoint.save={save}"]))
    assert plan["config"]["checkpoint"]["save"] == save
    assert plan["ok"], plan["checks"]


@pytest.mark.parametrize("length", [2048, 4096, 8192, 16384, 32768])
def test_seq_length_must_match_the_pack_size(packed: Path, client: TestClient, length: int) -> None:
    plan = planned(client, given(packed, overrides=[f"seq_length={length}"]))
    assert errors(plan) == ([] if length == 4096 else ["seq_length_mismatch"])


def test_choices_of_seq_length_and_peft(packed: Path, client: TestClient) -> None:
    assert "seq_length_not_offered" in errors(planned(client, given(packed, overrides=["seq_length=5000"])))
    rejected = client.post("/v1/jobs:plan", json=given(packed, overrides=["peft=dora"]))
    assert rejected.status_code == 422
    assert "'lora'" in rejected.json()["errors"][0]["detail"]


def test_dataset_nano3_packed_sft_dir_is_inputs_packed_parquet(packed: Path, client: TestClient) -> None:
    named = planned(client, {"overrides": [f"dataset.nano3_packed_sft_dir={packed}"]})
    assert named["ok"], named["checks"]
    differing = given(packed, overrides=[f"dataset.nano3_packed_sft_dir={packed}-2"])
    assert client.post("/v1/jobs:plan", json=differing).status_code == 422


# -- Strategies ------------------------------------------------------------------------------------


def test_strategies_are_advice_with_field_and_value(packed: Path, client: TestClient) -> None:
    """Few records; LoRA; the Super plan; long sequences; tight memory; throughput on H100."""
    slurm = given(packed, overrides=[f"hf_model_path={SUPER}", "seq_length=65536"], resources={"nodes": 8})
    advice = {check["code"]: check["suggestion"] for check in planned(client, slurm)["checks"]}
    assert advice["few_records"]["field"] == "train.global_batch_size"
    assert advice["use_lora"] == {"field": "peft", "from": None, "to": "lora"}
    assert advice["super_plan"]["to"] == 4
    assert advice["long_sequences"]["field"] == "model.hybrid_context_parallel"
    assert advice["tight_memory"]["field"] in (
        "model.recompute_granularity",
        "optimizer.optimizer_cpu_offload",
    )
    lepton = given(packed, cluster="lepton_sft_megatron_bridge", overrides=["ddp.overlap_grad_reduce=false"])
    advice = {check["code"]: check["suggestion"] for check in planned(client, lepton)["checks"]}
    assert advice["h100_throughput"] == {"field": "ddp.overlap_grad_reduce", "from": False, "to": True}


# -- Common Errors ---------------------------------------------------------------------------------


def test_tokenizer_mismatch(root: Path, client: TestClient) -> None:
    """Token identifiers do not align: reported before a GPU is allocated."""
    packed = make_dataset(root / "packed", rows=300, pack_size=4096, vocab_size=999_999)
    model = root / "model"
    model.mkdir()
    (model / "config.json").write_text('{"vocab_size": 1000}')
    (model / "model.safetensors").touch()
    plan = planned(client, given(packed, overrides=[f"hf_model_path={model}"]))
    [found] = [check for check in plan["checks"] if check["code"] == "tokenizer_mismatch"]
    assert found["severity"] == "error"
    assert found["hint"] == FAILURES["tokenizer_mismatch"].recovery


def test_missing_packed_data(root: Path, client: TestClient) -> None:
    plan = planned(client, given(root / "nowhere"))
    [found] = [check for check in plan["checks"] if check["code"] == "missing_packed_data"]
    assert found["pointer"] == "/inputs/packed_parquet"
    assert FAILURES["missing_packed_data"].recovery in found["hint"]
    answer = client.post("/v1/jobs", json=given(root / "nowhere"))
    assert answer.status_code == 422
    assert [error["code"] for error in answer.json()["errors"]] == ["missing_packed_data"]


def test_a_plan_warns_of_oom_when_the_estimate_exceeds_the_gpu(packed: Path, client: TestClient) -> None:
    plan = planned(client, given(packed, cluster="slurm_sft_megatron_bridge"))
    [found] = [check for check in plan["checks"] if check["code"] == "oom_likely"]
    assert (found["severity"], plan["ok"]) == ("warning", True)
    assert plan["memory"]["total_gib"] > 40


def test_rows_are_one_pack_each(root: Path, client: TestClient) -> None:
    """Packed SFT Parquet shards with input_ids and loss_mask columns."""
    shard = packs(300)
    del shard["loss_mask"]
    write_shard(root / "packed" / "splits" / "train" / "a.parquet", shard)
    plan = planned(client, given(root / "packed"))
    assert "bad_packed_data" in errors(plan)
