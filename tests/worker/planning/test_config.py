"""Overrides are parsed as in OmegaConf's dotlists."""

from typing import Any

import pytest

from trainer.config.presets import load_preset, preset_names
from trainer.config.training_config import TrainingConfig
from worker.planning.config import compose
from worker.planning.spec import JobSpec


def composed(overrides: Any, **spec: Any) -> TrainingConfig:
    return compose(JobSpec(name="x", overrides=overrides, **spec), load_preset("cpu-tiny")).config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("8.5", 8.5), ("1e-5", 1e-5), ("true", True), ("null", None), ("'8'", "8"),
        ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1}), ("", None), ("text", "text"), ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_a_dotlist_has_types(text: str, value: Any) -> None:
    kwargs = composed([f"tokenizer.hf_tokenizer_kwargs.x={text}"]).tokenizer["hf_tokenizer_kwargs"]
    assert kwargs == {"x": value}


def test_a_list_and_an_object_are_equivalent() -> None:
    listed = composed(["train.global_batch_size=4", "peft=lora", "recipe.sequence_parallel=true"])
    dotted = {"train.global_batch_size": 4, "peft": "lora", "recipe.sequence_parallel": True}
    nested = {"train": {"global_batch_size": 4}, "peft": "lora", "recipe": {"sequence_parallel": True}}
    assert composed(dotted) == composed(nested) == listed
    assert listed.train["train_iters"] == 50  # unnamed values stay


def test_the_last_of_equal_overrides_wins() -> None:
    assert composed(["seq_length=1", "seq_length=2"]).seq_length == 2


def test_inputs_are_aliases_of_two_fields() -> None:
    config = composed([], inputs={"packed_parquet": "/p", "checkpoint_megatron": "/c"})
    assert config.dataset.nano3_packed_sft_dir == "/p"
    assert config.checkpoint_megatron == "/c"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_complete_config(name: str) -> None:
    preset = load_preset(name)
    assert preset.description
    assert TrainingConfig.model_validate(preset.config).train["train_iters"] > 0
