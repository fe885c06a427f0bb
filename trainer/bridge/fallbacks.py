"""What a recipe asks of the machine beyond Transformer Engine: done without where it is not installed.

NVIDIA's containers have all of it. Elsewhere Bridge 0.6.2 and megatron-core 0.19.2 would raise once the
GPUs are taken. What a config sets itself is left alone.
"""

from collections.abc import Collection, Iterator
from typing import Any

from trainer.bridge.compat import is_installed

FLASH_ATTENTION = ("flash_attn", "flash_attn_interface", "flash_attn_3")


def apply_fallbacks(model: Any, given: Collection[str]) -> None:
    """Change what a model's provider asks of this machine and cannot have here; says so.

    given: dotted keys of ConfigContainer that the config sets.
    """
    for name, value, why in (*_fusion(model), *_attention(model), *_dispatcher(model)):
        if f"model.{name}" not in given:
            setattr(model, name, value)
            print(f"trainer: model.{name}={getattr(value, 'name', value)}, as {why}", flush=True)


Change = tuple[str, Any, str]


def _fusion(model: Any) -> Iterator[Change]:
    """Bridge has it on where Transformer Engine is; the output layer is megatron-core's own, and raises."""
    if model.gradient_accumulation_fusion and not is_installed("fused_weight_gradient_mlp_cuda"):
        yield "gradient_accumulation_fusion", False, "APEX is not installed"


def _attention(model: Any) -> Iterator[Change]:
    """The default of hybrids is flash, with which Transformer Engine may take nothing else."""
    from megatron.core.transformer.enums import AttnBackend

    if model.attention_backend == AttnBackend.flash and not any(map(is_installed, FLASH_ATTENTION)):
        yield "attention_backend", AttnBackend.fused, "flash-attn is not installed"


def _dispatcher(model: Any) -> Iterator[Change]:
    """DeepEP moves tokens between ranks; the recipe's own alternative to it is alltoall."""
    if getattr(model, "moe_token_dispatcher_type", None) != "flex":
        return
    if (model.expert_tensor_parallel_size or 1) * model.expert_model_parallel_size == 1:
        yield "moe_token_dispatcher_type", "alltoall", "one rank holds all experts"
    elif not is_installed("deep_ep"):
        yield "moe_token_dispatcher_type", "alltoall", "DeepEP is not installed"
