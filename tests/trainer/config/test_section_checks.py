"""Invalid keys and values of a config are rejected, with the nearest valid name."""

from typing import Any

import pytest

from trainer.config.bridge_schema import recipes
from trainer.config.models import MODELS, NANO
from trainer.config.presets import load_preset, preset_names
from trainer.config.section_checks import section_faults
from trainer.config.training_config import TrainingConfig


def config(**values: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"hf_model_path": NANO, **values})


def at(key: str, value: Any) -> dict[str, Any]:
    """A dotted key as nested objects."""
    *parents, last = key.split(".")
    nested: dict[str, Any] = {last: value}
    for name in reversed(parents):
        nested = {name: nested}
    return nested


MISSPELLED = {
    "train.gloabl_batch_size": "train.global_batch_size",
    "train.global_batchsize": "train.global_batch_size",
    "train.globalBatchSize": "train.global_batch_size",
    "train.micro_batch": "train.micro_batch_size",
    "train.train_iter": "train.train_iters",
    "train.lr": "optimizer.lr",
    "train.seed": "rng.seed",
    "train.save_interval": "checkpoint.save_interval",
    "train.exit_signal_handle": "train.exit_signal_handler",
    "optimizer.learning_rate": "optimizer.lr",
    "train.max_steps": "train.train_iters",
    "train.iters": "train.train_iters",
    "train.batch_size": "train.global_batch_size",
    "optimizer.weight_deacy": "optimizer.weight_decay",
    "optimizer.adam_beta_2": "optimizer.adam_beta2",
    "scheduler.warmup_iters": "scheduler.lr_warmup_iters",
    "scheduler.lr_decay_stlye": "scheduler.lr_decay_style",
    "checkpoint.save_intervall": "checkpoint.save_interval",
    "checkpoint.async": "checkpoint.async_save",
    "model.recompute_granularty": "model.recompute_granularity",
    "model.atention_backend": "model.attention_backend",
    "recipe.tensor_parallel_size": "recipe.tensor_model_parallel_size",
    "recipe.pipeline_model_paralel_size": "recipe.pipeline_model_parallel_size",
    "ddp.overlap_gradreduce": "ddp.overlap_grad_reduce",
    "lora.rank": "lora.dim",
    "lora.target_module": "lora.target_modules",
    "logger.log_intervals": "logger.log_interval",
    "dataset.offline_packing_specs.pad_seq_to_mul": "dataset.offline_packing_specs.pad_seq_to_mult",
}


@pytest.mark.parametrize(("key", "nearest"), MISSPELLED.items())
def test_a_misspelled_key_is_rejected_with_the_nearest_name(key: str, nearest: str) -> None:
    [fault] = section_faults(config(**at(key, 8)))
    assert (fault.pointer, fault.code) == ("/" + key.replace(".", "/"), "unknown_key")
    assert fault.hint == f"Did you mean '{nearest}'?"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.global_batch_size", "many", "an integer or null"),
        ("train.train_iters", "abc", "an integer or null"),
        ("train.train_iters", 1e3, "an integer"),
        ("train.micro_batch_size", True, "an integer or null"),
        ("optimizer.lr", "fast", "a number or null"),
        ("logger.wandb_project", 7, "text or null"),
        ("ddp.overlap_grad_reduce", "yes", "true or false"),
        ("lora.target_modules", "linear_qkv", "a list, each item text"),
        ("lora.dropout_position", "middle", "one of pre, post"),
        ("model.attention_backend", "quick", "one of flash, fused, unfused, local, auto"),
        ("recipe.moe_router_topk", "six", "an integer"),
        ("dataset.offline_packing_specs.packed_sequence_size", "long", "an integer"),
    ],
)
def test_a_wrong_type_is_rejected_with_the_expected_type(key: str, value: Any, message: str) -> None:
    [fault] = section_faults(config(**at(key, value)))
    assert (fault.pointer, fault.code) == ("/" + key.replace(".", "/"), "wrong_value")
    assert message in fault.detail


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("model.params_dtype", "bf16", "not_settable"),
        ("model.init_method", "normal", "not_settable"),
        ("model.hybrid_stack_spec", {"module": "os.system"}, "not_settable"),
        ("dataset.dataset_root", "/data", "use_own_key"),
        ("checkpoint.pretrained_checkpoint", "/base", "use_own_key"),
        ("train.train_iters", -5, "out_of_range"),
        ("train.global_batch_size", 0, "out_of_range"),
        ("comm_overlap.bucket_size", 5, "missing_key"),
        ("recipe._target_", "os.system", "unknown_recipe"),
        ("recipe._target_", "megatron.bridge.recipes.llama.llama3_8b_sft_config", "unknown_recipe"),
    ],
)  # fmt: skip
def test_a_key_that_no_request_may_set_is_rejected(key: str, value: Any, code: str) -> None:
    assert [fault.code for fault in section_faults(config(**at(key, value)))] == [code]


def test_only_precisions_of_bridge_are_accepted() -> None:
    [fault] = section_faults(config(mixed_precision="bf16_mixd"))
    assert (fault.pointer, fault.hint) == ("/mixed_precision", "Did you mean 'bf16_mixed'?")
    assert section_faults(config(mixed_precision="bf16_mixed")) == []


def test_recipe_and_model_must_not_contradict() -> None:
    both = config(recipe={"tensor_model_parallel_size": 2}, model={"tensor_model_parallel_size": 4})
    assert [fault.code for fault in section_faults(both)] == ["said_twice"]
    same = config(recipe={"tensor_model_parallel_size": 4}, model={"tensor_model_parallel_size": 4})
    assert section_faults(same) == []


@pytest.mark.parametrize(
    "key",
    [
        "recipe.tensor_model_parallel_size", "recipe.train_iters", "recipe.num_layers",
        "model.moe_router_topk", "train.train_iters", "lora.dim",
    ],
)  # fmt: skip
def test_keys_of_bridge_may_be_set(key: str) -> None:
    assert section_faults(config(**at(key, 8))) == []


@pytest.mark.parametrize("target", ["nemotron_3_nano_finetune_config", "nemotron_3_nano_sft_config"])
def test_recipe_names_of_the_2025_containers_are_mapped(target: str) -> None:
    module = "megatron.bridge.recipes.nemotronh.nemotron_3_nano"
    assert section_faults(config(recipe={"_target_": f"{module}.{target}"})) == []


@pytest.mark.parametrize("name", preset_names())
def test_presets_have_no_faults(name: str) -> None:
    assert section_faults(TrainingConfig.model_validate(load_preset(name).config)) == []


def test_every_recipe_of_the_table_is_described() -> None:
    named = {name for model in MODELS for name in (model.sft_recipe, model.peft_recipe)}
    assert named | {"gpt", "mla", "hybrid"} == set(recipes())
