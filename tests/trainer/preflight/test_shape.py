"""The parallel shape is checked with the rules of megatron-core, before a GPU is allocated."""

from typing import Any

import pytest

from trainer.config.effective import Effective
from trainer.config.models import NANO, SUPER
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Finding, Hardware, fit
from trainer.preflight.shape import check, shape_of

ONE_NODE, TWO_NODES, FOUR_NODES = Hardware(1, 8), Hardware(2, 8), Hardware(4, 8)


def config(path: str = NANO, /, **values: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"hf_model_path": path, **values})


def found(config: TrainingConfig, hardware: Hardware) -> list[Finding]:
    return list(check(Effective(config), hardware))


def change(finding: Finding) -> tuple[str, Any, Any]:
    assert finding.suggestion is not None
    return finding.suggestion.field, finding.suggestion.current, finding.suggestion.to


def test_the_recipes_own_shapes_fit() -> None:
    assert found(config(), ONE_NODE) == []
    assert found(config(SUPER), FOUR_NODES) == []


@pytest.mark.parametrize(
    ("recipe", "hardware", "message", "suggested"),
    [
        ({"tensor_model_parallel_size": 16}, ONE_NODE, "TP 16 x PP 1 x CP 1", ("resources.nodes", 1, 2)),
        ({"pipeline_model_parallel_size": 13}, Hardware(3, 8), "TP 1 x PP 13", ("resources.nodes", 3, 13)),
        ({"context_parallel_size": 3}, ONE_NODE, "CP 3", ("resources.nodes", 1, 3)),
        (
            {"expert_model_parallel_size": 16},
            ONE_NODE,
            "ETP 1 x EP 16 x PP 1",
            ("recipe.expert_model_parallel_size", 16, 8),
        ),
        (
            {"tensor_model_parallel_size": 2, "expert_tensor_parallel_size": 3},
            ONE_NODE,
            "ETP 3 x EP 8",
            None,
        ),
    ],
)
def test_group_sizes_must_divide_the_gpus(
    recipe: dict[str, int], hardware: Hardware, message: str, suggested: tuple[str, int, int] | None
) -> None:
    first = found(config(recipe=recipe), hardware)[0]
    assert (first.severity, first.code) == ("error", "bad_parallel_batch_shape")
    assert message in first.message
    assert (change(first) if first.suggestion else None) == suggested


def test_expert_tensor_parallelism_defaults_to_tensor_parallelism() -> None:
    generic = config("meta-llama/Llama-3.2-1B", recipe={"tensor_model_parallel_size": 4})
    assert shape_of(Effective(generic)).expert_tensor == 4


@pytest.mark.parametrize(
    ("values", "message", "suggested"),
    [
        ({"train": {"micro_batch_size": 2}}, "micro batch of 1", ("train.micro_batch_size", 2, 1)),
        ({"train": {"global_batch_size": 12}}, "not a multiple of 8", ("train.global_batch_size", 12, 16)),
        (
            {"recipe": {"tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 8,
                        "expert_model_parallel_size": 8}},
            "52 layers cannot be split over PP 8", ("recipe.pipeline_model_parallel_size", 8, 4),
        ),
        (
            {"recipe": {"tensor_model_parallel_size": 64, "expert_model_parallel_size": 8}},
            "32 attention heads cannot be split over TP 64", ("recipe.tensor_model_parallel_size", 64, 32),
        ),
    ],
)  # fmt: skip
def test_batch_heads_and_layers_must_be_divisible(
    values: dict[str, Any], message: str, suggested: tuple[str, int, int]
) -> None:
    hardware = Hardware(8, 8) if "recipe" in values else ONE_NODE
    [one] = [one for one in found(config(**values), hardware) if message in one.message]
    assert (one.severity, one.code) == ("error", "bad_parallel_batch_shape")
    assert change(one) == suggested


def test_mamba_groups_must_be_divisible_by_the_tensor_parallel_size() -> None:
    [found_of_groups] = found(config(recipe={"tensor_model_parallel_size": 16}), TWO_NODES)[:1]
    assert "8 Mamba groups cannot be split over TP 16" in found_of_groups.message
    assert change(found_of_groups)[1:] == (16, 8)


def test_a_model_without_experts_rejects_expert_parallelism() -> None:
    dense = "nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16"
    [spread] = found(config(dense, recipe={"expert_model_parallel_size": 8}), ONE_NODE)
    assert (spread.severity, change(spread)) == ("error", ("recipe.expert_model_parallel_size", 8, 1))


def test_query_groups_must_be_a_multiple_or_a_divisor() -> None:
    six = {
        "recipe": {"tensor_model_parallel_size": 3},
        "model": {"num_query_groups": 2, "sequence_parallel": True},
    }
    assert any("2 query groups" in one.message for one in found(config(**six), Hardware(3, 8)))
    two = {"recipe": {"tensor_model_parallel_size": 8, "sequence_parallel": True}}
    assert found(config(**two), ONE_NODE) == []


def test_an_uneven_layout_need_not_divide_the_layers() -> None:
    uneven = config(
        SUPER,
        recipe={
            "tensor_model_parallel_size": 1,
            "pipeline_model_parallel_size": 8,
            "expert_model_parallel_size": 2,
        },
        model={"num_layers_in_last_pipeline_stage": 4},
    )
    assert [one.message for one in found(uneven, FOUR_NODES) if "layers" in one.message] == []
    even = config(recipe={"pipeline_model_parallel_size": 8, "expert_model_parallel_size": 1})
    assert any("52 layers" in one.message for one in found(even, ONE_NODE))


def test_context_parallelism_needs_a_loss_per_token() -> None:
    off = config(recipe={"context_parallel_size": 2}, model={"calculate_per_token_loss": False})
    [one] = found(off, TWO_NODES)
    assert change(one) == ("model.calculate_per_token_loss", False, True)
    assert found(config(recipe={"context_parallel_size": 2}), TWO_NODES) == []
    averaged = config(recipe={"context_parallel_size": 2}, ddp={"average_in_collective": True})
    assert [change(one) for one in found(averaged, TWO_NODES)] == [("ddp.average_in_collective", True, False)]
    odd = config(seq_length=4098, recipe={"context_parallel_size": 2})
    assert "not a multiple of 2 x CP 2" in found(odd, TWO_NODES)[0].message


@pytest.mark.parametrize(("peft", "severity"), [(None, "error"), ("lora", "warning")])
@pytest.mark.parametrize(("model", "gpus", "nodes"), [(NANO, 4, 1), (SUPER, 16, 4)])
def test_minimum_gpus(peft: str | None, severity: str, model: str, gpus: int, nodes: int) -> None:
    hardware = Hardware(gpus // 8 or 1, min(gpus, 8))
    [one] = [one for one in found(config(model, peft=peft), hardware) if one.code == "too_few_gpus"]
    assert (one.severity, str(gpus) in one.message) == (severity, True)
    assert found(config(model, peft=peft), Hardware(-(-32 // 8), 8)) == []


# -- fitting ---------------------------------------------------------------------------------------


def test_experts_of_super_are_spread_over_fewer_ranks() -> None:
    asked = {"tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 4}
    for peft in (None, "lora"):
        fitted = fit(config(SUPER, peft=peft, recipe=asked), 32)
        assert [change(one) for one in fitted] == [("recipe.expert_model_parallel_size", 16, 8)]


def test_values_of_the_config_are_not_fitted() -> None:
    asked = {"pipeline_model_parallel_size": 4, "expert_model_parallel_size": 16}
    assert fit(config(SUPER, recipe=asked), 32) == []
    assert found(config(SUPER, recipe=asked), FOUR_NODES)[0].pointer == "/recipe/expert_model_parallel_size"


def test_experts_under_tensor_parallelism_get_sequence_parallelism() -> None:
    asked = config(recipe={"tensor_model_parallel_size": 8})
    assert [change(one) for one in fit(asked, 8)] == [("recipe.sequence_parallel", False, True)]
    assert fit(config(recipe={"tensor_model_parallel_size": 8, "sequence_parallel": False}), 8) == []
