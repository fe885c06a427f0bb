"""The estimate of a GPU's memory."""

import json
from pathlib import Path

import pytest

from tests.support.hub_cache import HUB
from trainer.config.effective import Effective
from trainer.config.models import MODELS, NANO, SUPER
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Hardware, memory_of
from trainer.preflight.memory import Estimate, check, count


def config(path: str = NANO, /, **values: object) -> TrainingConfig:
    return TrainingConfig.model_validate({"hf_model_path": path, **values})


@pytest.mark.parametrize(
    ("model", "billions"), [(NANO, 31.6), (SUPER, 120.6), ("nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16", 4.0)]
)
def test_parameter_counts_match_nvidias(model: str, billions: float) -> None:
    assert count(Effective(config(model))).total / 1e9 == pytest.approx(billions, rel=0.01)


def test_bytes_per_parameter_are_those_of_mixed_precision_with_adam() -> None:
    """Dense model, 8 replicas: 2 bytes of weights, 4 of gradients, 12 of states split over the replicas."""
    found = memory_of(config("nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16"), Hardware(1, 8))
    assert found is not None
    gib = found.parameters / 2**30
    parts = (found.weights_gib, found.gradients_gib, found.optimizer_gib)
    assert parts == pytest.approx((2 * gib, 4 * gib, 12 * gib / 8), rel=0.01)


def test_parallelism_reduces_the_parts_that_it_splits() -> None:
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


def test_unknown_sizes_have_no_estimate() -> None:
    assert memory_of(config("meta-llama/Llama-3.2-1B"), Hardware(1, 8)) is None
    assert memory_of(config(recipe={"tensor_model_parallel_size": 3}), Hardware(1, 8)) is None


def test_a_gpu_that_is_too_small_is_a_warning() -> None:
    expected = [("warning", "oom_likely")], [("unverified", "gpu_memory_unknown")], []
    for gib, codes in zip((80, None, 141), expected, strict=True):
        hardware = Hardware(1, 8, gpu_memory_gib=gib)
        found = check(Effective(config()), hardware, memory_of(config(), hardware))
        assert [(one.severity, one.code) for one in found] == codes


def test_every_known_model_has_an_estimate() -> None:
    assert all(memory_of(config(model.id), Hardware(4, 8)) for model in MODELS)


# Llama of 1.1 billion parameters, as in demo/gpu.py.
LLAMA = {
    "model_type": "llama", "vocab_size": 32_768, "hidden_size": 2048, "intermediate_size": 8192,
    "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "tie_word_embeddings": False,
}  # fmt: skip


RECOMPUTED = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


@pytest.mark.parametrize(
    ("seq_length", "vocabulary", "model", "measured", "within"),
    [
        (4096, 32_768, {}, 25.85, 0.04),
        (16_384, 32_768, {}, 46.09, 0.04),
        (131_072, 2048, RECOMPUTED, 44.32, 0.15),
    ],
)
def test_the_estimate_is_close_to_measurements_on_an_h100(
    tmp_path: Path, seq_length: int, vocabulary: int, model: dict[str, object], measured: float, within: float
) -> None:
    """Measured in docs/evidence: bench.txt, switches.txt, oom.yaml."""
    found = estimated(tmp_path, {**LLAMA, "vocab_size": vocabulary}, seq_length=seq_length, model=model)
    assert found.total_gib == pytest.approx(measured, rel=within)


def test_the_loss_of_transformer_engine_keeps_less(tmp_path: Path) -> None:
    """1.05 GiB less were measured (docs/evidence/switches.txt)."""
    native, te = (
        estimated(tmp_path, LLAMA, seq_length=4096, model={"cross_entropy_fusion_impl": implementation})
        for implementation in ("native", "te")
    )
    assert native.total_gib - te.total_gib == pytest.approx(1.05, abs=0.1)


def test_tied_embeddings_are_counted_once(tmp_path: Path) -> None:
    apart = estimated(tmp_path, LLAMA)
    assert apart.parameters == pytest.approx(1_107_363_840, rel=1e-3)
    tied = {**LLAMA, "tie_word_embeddings": True}
    assert apart.parameters - estimated(tmp_path, tied).parameters == 32_768 * 2048
    untied = estimated(tmp_path, tied, model={"share_embeddings_and_output_weights": False})
    assert untied.parameters == apart.parameters


def estimated(directory: Path, model_config: dict[str, object], **values: object) -> Estimate:
    """Estimate for a model on one GPU, in bf16."""
    (directory / "config.json").write_text(json.dumps(model_config))
    wanted = config(str(directory), mixed_precision="bf16_mixed", **values)
    found = memory_of(wanted, Hardware(1, 1))
    assert found is not None
    return found


def test_a_local_copy_has_the_same_count_as_the_model_of_the_hub(tmp_path: Path) -> None:
    """Also with config.json in the format of transformers 5, which has names of layers."""
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


def test_activations_of_a_hybrid_are_the_sum_over_its_layers(tmp_path: Path) -> None:
    """Bytes per token by hand: Mamba (M), attention (*), an MLP (-) of two matrices; 12 per logit."""
    hybrid = {
        "architectures": ["NemotronHForCausalLM"], "hybrid_override_pattern": "M*-", "num_hidden_layers": 3,
        "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4,
        "num_key_value_heads": 2, "mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 2,
        "ssm_state_size": 16,
    }  # fmt: skip
    mamba = 5 * 64 + 2 * (3 * 128 + 2 * 2 * 16 + 4)
    attention, mlp, logits = 13 * 64, 5 * 64 + 4 * 256, 12 * 1000
    found = estimated(tmp_path, hybrid, seq_length=1 << 20)
    assert found.activations_gib == pytest.approx((mamba + attention + mlp + logits) / 1024, rel=1e-3)
    recomputed = estimated(tmp_path, hybrid, seq_length=1 << 20, model=RECOMPUTED)
    assert recomputed.activations_gib == pytest.approx((3 * 2 * 64 + mlp + logits) / 1024, rel=1e-3)
