"""A TrainingConfig as Megatron-Bridge's ConfigContainer."""

from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from trainer.checkpoints import iteration_of, latest_complete
from trainer.config import TrainingConfig
from trainer.dataset import find_shards


class UnknownKey(ValueError):
    """A section has a key that Bridge does not know; says which is near."""


def build(config: TrainingConfig) -> Any:
    """The ConfigContainer of a run. Raises UnknownKey, MissingPackedData."""
    from megatron.bridge.training import config as bridge

    container = bridge.ConfigContainer(
        model=_model(config),
        train=bridge.TrainingConfig(micro_batch_size=1),
        validation=bridge.ValidationConfig(),
        optimizer=_optimizer(config, bridge),
        scheduler=bridge.SchedulerConfig(),
        ddp=_ddp(config, bridge),
        dataset=_dataset(config),
        tokenizer=_tokenizer(config),
        logger=bridge.LoggerConfig(log_interval=1, log_throughput=True),
        checkpoint=_checkpoint(config, bridge),
        dist=_dist(config, bridge),
        rng=bridge.RNGConfig(),
        mixed_precision=None if config.device == "cpu" else (config.mixed_precision or "bf16_mixed"),
        peft=_peft(config),
    )
    for section in SECTIONS:
        _apply(section, getattr(container, section), getattr(config, section))
    _constant_weight_decay(container)
    _resume(container.checkpoint)
    return container


def _constant_weight_decay(container: Any) -> None:
    """The scheduler wants the decay's begin and end spelt out; unless given, it is the optimizer's."""
    scheduler, decay = container.scheduler, container.optimizer.weight_decay
    if scheduler.start_weight_decay is None:
        scheduler.start_weight_decay = decay
    if scheduler.end_weight_decay is None:
        scheduler.end_weight_decay = decay


SECTIONS = (
    "train", "validation", "optimizer", "scheduler", "ddp", "checkpoint",
    "logger", "rng", "dist", "tokenizer", "model",
)  # fmt: skip


def _apply(section: str, target: Any, values: dict[str, Any]) -> None:
    """Set a section's values. Raises UnknownKey."""
    for key, value in values.items():
        _refuse_unknown(section, key, target)
        setattr(target, key, value)


def _refuse_unknown(section: str, key: str, target: Any) -> None:
    assert is_dataclass(target)
    known = [field.name for field in fields(target)]
    if key not in known:
        nearest = get_close_matches(key, known, n=1)
        hint = f"did you mean {section}.{nearest[0]}?" if nearest else f"it has {', '.join(known)}."
        raise UnknownKey(f"Megatron-Bridge has no {section}.{key}: {hint}")


# -- sections --------------------------------------------------------------------------------------


def _model(config: TrainingConfig) -> Any:
    """The model as its Hugging Face config describes it; the weights come later, from the checkpoint."""
    from megatron.bridge import AutoBridge

    provider = AutoBridge.from_hf_pretrained(config.hf_model_path).to_megatron_provider(load_weights=False)
    provider.seq_length = config.seq_length
    # Bridge would fuse through APEX, which is not there; megatron-core does without.
    provider.gradient_accumulation_fusion = False
    for key, value in config.recipe.model_dump(exclude_none=True).items():
        setattr(provider, key, value)
    if config.device == "cpu":
        _model_on_cpu(provider)
    return provider


def _model_on_cpu(provider: Any) -> None:
    """Float32, and no layer or fusion that is a CUDA kernel."""
    import torch
    from megatron.bridge.models.gpt_provider import local_layer_spec

    provider.transformer_layer_spec = local_layer_spec
    provider.params_dtype = provider.pipeline_dtype = provider.autocast_dtype = torch.float32
    provider.bf16 = provider.fp16 = False
    for name in FUSIONS:
        setattr(provider, name, False)


FUSIONS = (
    "masked_softmax_fusion", "bias_activation_fusion", "bias_dropout_fusion", "apply_rope_fusion",
    "cross_entropy_loss_fusion", "persist_layer_norm",
)  # fmt: skip


def _optimizer(config: TrainingConfig, bridge: Any) -> Any:
    import torch

    on_cpu = config.device == "cpu"
    return bridge.OptimizerConfig(
        optimizer="adam",
        bf16=not on_cpu,
        fp16=False,
        params_dtype=torch.float32 if on_cpu else torch.bfloat16,
        use_distributed_optimizer=not on_cpu,
        clip_grad=1.0,
    )


def _ddp(config: TrainingConfig, bridge: Any) -> Any:
    on_gpu = config.device != "cpu"
    return bridge.DistributedDataParallelConfig(
        use_distributed_optimizer=on_gpu,
        overlap_grad_reduce=on_gpu,
        overlap_param_gather=on_gpu,
        grad_reduce_in_fp32=True,
    )


def _dataset(config: TrainingConfig) -> Any:
    from megatron.bridge.data.builders import GPTSFTDatasetConfig
    from megatron.bridge.data.packing import PackedSequenceSpecs

    shards = find_shards(Path(config.dataset.nano3_packed_sft_dir or ""))
    specs = PackedSequenceSpecs(
        packed_sequence_size=config.seq_length,
        packed_train_data_path=str(shards.source),
        packed_val_data_path=str(shards.valid[0].parent) if shards.valid else None,
    )
    dataset = GPTSFTDatasetConfig(
        dataset_root=str(shards.directories[-1]),
        seq_length=config.seq_length,
        enable_offline_packing=True,
        offline_packing_specs=specs,
        do_validation=bool(shards.valid),
        do_test=False,
        num_workers=0 if config.device == "cpu" else 2,
        pin_memory=config.device != "cpu",
        persistent_workers=False,
    )
    _apply("dataset", dataset, config.dataset.model_extra or {})
    return dataset


def _tokenizer(config: TrainingConfig) -> Any:
    from megatron.bridge.training.tokenizers.config import TokenizerConfig

    return TokenizerConfig(tokenizer_type="HuggingFaceTokenizer", tokenizer_model=config.hf_model_path)


def _checkpoint(config: TrainingConfig, bridge: Any) -> Any:
    """What to begin from, unless there is something to resume: checkpoint_megatron, else hf_model_path."""
    return bridge.CheckpointConfig(
        pretrained_checkpoint=config.checkpoint_megatron or config.hf_model_path,
        ckpt_format="torch_dist",
        async_save=False,
    )


def _resume(checkpoint: Any) -> None:
    """Go on from the newest complete checkpoint of an earlier attempt, whatever else is named.

    Bridge's own tracker would name the newest, whole or not.
    """
    if checkpoint.save is None:
        return
    latest = latest_complete(Path(checkpoint.save))
    if latest is not None:
        checkpoint.load, checkpoint.ckpt_step = checkpoint.save, iteration_of(latest)


def _dist(config: TrainingConfig, bridge: Any) -> Any:
    if config.device == "cpu":
        return bridge.DistributedInitConfig(distributed_backend="gloo", use_gloo_process_groups=True)
    return bridge.DistributedInitConfig()


def _peft(config: TrainingConfig) -> Any:
    if config.peft is None:
        return None
    from megatron.bridge.peft.lora import LoRA

    lora = LoRA()
    _apply("lora", lora, config.lora)
    return lora
