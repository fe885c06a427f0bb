"""The estimate of a GPU's memory."""

import json
from pathlib import Path

import pytest

from tests.trainer.hub import HUB
from trainer.config import TrainingConfig
from trainer.effective import Effective
from trainer.models import MODELS, NANO, SUPER
from trainer.preflight import Hardware, memory_of
from trainer.preflight.memory import check, count


def config(path: str = NANO, /, **values: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"hf_model_path": path, **values})


@pytest.mark.parametrize(
    ("model", "billions"), [(NANO, 31.6), (SUPER, 120.6), ("nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16", 4.0)]
)
def test_parameters_are_those_that_nvidia_names(model: str, billions: float) -> None:
    assert count(Effective(config(model))).total / 1e9 == pytest.approx(billions, rel=0.01)


def test_bytes_of_a_parameter_are_those_of_mixed_precision_with_adam() -> None:
    """Of a dense model on 8 replicas: 2 of weights, 4 of gradients, 12 of states that the replicas share."""
    found = memory_of(config("nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16"), Hardware(1, 8))
    assert found is not None
    gib = found.parameters / 2**30
    parts = (found.weights_gib, found.gradients_gib, found.optimizer_gib)
    assert parts == pytest.approx((2 * gib, 4 * gib, 12 * gib / 8), rel=0.01)


def test_parts_shrink_with_what_splits_them() -> None:
    one, four = (memory_of(config(), Hardware(nodes, 8)) for nodes in (1, 4))
    assert one is not None
    assert four is not None
    assert one.weights_gib == four.weights_gib
    assert one.optimizer_gib == pytest.approx(4 * four.optimizer_gib, rel=0.01)  # split over replicas
    lora = memory_of(config(peft="lora"), Hardware(1, 8))
    assert lora is not None
    assert lora.optimizer_gib < one.optimizer_gib / 100
    sharded = memory_of(config(recipe={"tensor_model_parallel_size": 8}), Hardware(1, 8))
    assert sharded is not None
    assert sharded.activations_gib == pytest.approx(one.activations_gib / 8, rel=0.01)
    spared = memory_of(config(model={"recompute_granularity": "full"}), Hardware(1, 8))
    assert spared is not None
    assert spared.activations_gib < one.activations_gib / 2


def test_no_guess_where_nothing_is_known() -> None:
    assert memory_of(config("meta-llama/Llama-3.2-1B"), Hardware(1, 8)) is None
    assert memory_of(config(recipe={"tensor_model_parallel_size": 3}), Hardware(1, 8)) is None


def test_a_gpu_that_is_too_small_is_a_warning() -> None:
    told = [("warning", "oom_likely")], [("unverified", "gpu_memory_unknown")], []
    for gib, codes in zip((80, None, 141), told, strict=True):
        hardware = Hardware(1, 8, gpu_memory_gib=gib)
        found = check(Effective(config()), hardware, memory_of(config(), hardware))
        assert [(one.severity, one.code) for one in found] == codes


def test_every_known_model_has_an_estimate() -> None:
    assert all(memory_of(config(model.id), Hardware(4, 8)) for model in MODELS)


# Llama of 1.1 billion parameters, as demo/gpu.py makes it.
LLAMA = {
    "model_type": "llama", "vocab_size": 32_768, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("seq_length", "model", "measured"),
    [(4096, {}, 25.85), (16_384, {}, 46.09), (4096, {"cross_entropy_fusion_impl": "te"}, 24.75)],
)
def test_it_is_near_what_an_h100_held(
    tmp_path: Path, seq_length: int, model: dict[str, str], measured: float
) -> None:
    """docs/evidence/bench.txt and switches.txt."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    wanted = config(str(tmp_path), seq_length=seq_length, model=model, mixed_precision="bf16_mixed")
    found = memory_of(wanted, Hardware(1, 1))
    assert found is not None
    assert found.parameters == pytest.approx(1_107_363_840, rel=1e-3)
    assert found.total_gib == pytest.approx(measured, rel=0.04)
    tied = json.dumps({**LLAMA, "tie_word_embeddings": True})
    (tmp_path / "config.json").write_text(tied)
    assert count(Effective(wanted)).total == found.parameters - 32_768 * 2048


def test_a_local_copy_is_counted_as_the_model_of_the_hub(tmp_path: Path) -> None:
    """By its config.json, also as transformers 5 writes it: with layers by their names."""
    name = f"models--{NANO.replace('/', '--')}"
    values = json.loads(next((HUB / name).glob("snapshots/*/config.json")).read_text())
    (tmp_path / "config.json").write_text(json.dumps(values))
    by_id = count(Effective(config()))
    assert count(Effective(config(str(tmp_path)))) == by_id
    letters = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    values["layers_block_type"] = [letters[one] for one in values.pop("hybrid_override_pattern")]
    del values["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert count(Effective(config(str(tmp_path)))) == by_id
