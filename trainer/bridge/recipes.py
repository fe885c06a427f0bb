"""Create ConfigContainers: from Bridge's recipes by name, and a generic one for other models.

container.py then sets the values of a job's config.
"""

import importlib
import inspect
import sys
import types
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

RECIPES = "megatron.bridge.recipes"


def named(name: str, arguments: Mapping[str, Any]) -> Any:
    """Call one of Bridge's Nemotron recipes. Outputs that this project does not use are disabled."""
    container = _function(name)(**arguments)
    # These default to paths below the working directory, where another run may have left a tracker file.
    container.checkpoint.save = container.checkpoint.load = container.logger.tensorboard_dir = None
    return _with_defaults(container)


def _with_defaults(container: Any) -> Any:
    """Set this project's defaults: packed data, a log line for each step, synchronous saves."""
    from megatron.bridge.data.builders import GPTSFTDatasetConfig
    from megatron.bridge.data.packing import PackedSequenceSpecs

    container.dataset = GPTSFTDatasetConfig(
        dataset_root=".",
        seq_length=container.model.seq_length,
        enable_offline_packing=True,
        offline_packing_specs=PackedSequenceSpecs(),
        do_test=False,
        num_workers=2,
        persistent_workers=False,
    )
    container.logger.log_interval, container.logger.log_throughput = 1, True
    container.checkpoint.async_save = False
    return container


def parameters(name: str) -> list[str]:
    """Names of a recipe's parameters."""
    return list(inspect.signature(_function(name)).parameters)


def _function(name: str) -> Any:
    _skip_other_recipes()
    module = importlib.import_module(f"{RECIPES}.nemotronh")
    return getattr(module, name, None) or getattr(importlib.import_module(f"{RECIPES}.nemotronh.h100"), name)


def _skip_other_recipes() -> None:
    """Bypass the package's __init__: it imports all recipes, which need diffusers, energon, ..."""
    if RECIPES not in sys.modules:
        spec = find_spec("megatron.bridge")
        assert spec is not None
        assert spec.origin is not None
        package = types.ModuleType(RECIPES)
        package.__path__ = [str(Path(spec.origin).parent / "recipes")]
        sys.modules[RECIPES] = package


def generic(provider: Any, *, on_cpu: bool) -> Any:
    """Create a container for a model without a recipe; with float32 and gloo on a CPU."""
    from megatron.bridge.training import config as bridge
    from megatron.bridge.training.tokenizers.config import TokenizerConfig

    if on_cpu:
        plain_model(provider)
    container = bridge.ConfigContainer(
        model=provider,
        train=bridge.TrainingConfig(micro_batch_size=1),
        validation=bridge.ValidationConfig(),
        optimizer=_optimizer(bridge, on_cpu=on_cpu),
        scheduler=bridge.SchedulerConfig(),
        ddp=_ddp(bridge, on_cpu=on_cpu),
        dataset=None,
        tokenizer=TokenizerConfig(tokenizer_type="HuggingFaceTokenizer"),
        logger=bridge.LoggerConfig(),
        checkpoint=bridge.CheckpointConfig(ckpt_format="torch_dist"),
        dist=_dist(bridge, on_cpu=on_cpu),
        rng=bridge.RNGConfig(),
        mixed_precision=None if on_cpu else "bf16_mixed",
    )
    container = _with_defaults(container)
    if on_cpu:
        container.dataset.num_workers, container.dataset.pin_memory = 0, False
    return container


def plain_model(provider: Any) -> None:
    """Set float32, and disable layers and fusions that need CUDA kernels."""
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


def _optimizer(bridge: Any, *, on_cpu: bool) -> Any:
    import torch

    return bridge.OptimizerConfig(
        optimizer="adam",
        bf16=not on_cpu,
        fp16=False,
        params_dtype=torch.float32 if on_cpu else torch.bfloat16,
        use_distributed_optimizer=not on_cpu,
        clip_grad=1.0,
    )


def _ddp(bridge: Any, *, on_cpu: bool) -> Any:
    return bridge.DistributedDataParallelConfig(
        use_distributed_optimizer=not on_cpu,
        overlap_grad_reduce=not on_cpu,
        overlap_param_gather=not on_cpu,
        grad_reduce_in_fp32=True,
    )


def _dist(bridge: Any, *, on_cpu: bool) -> Any:
    if on_cpu:
        return bridge.DistributedInitConfig(distributed_backend="gloo", use_gloo_process_groups=True)
    return bridge.DistributedInitConfig()
