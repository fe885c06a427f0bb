"""Fall back to other settings if packages that a recipe needs are not installed.

NVIDIA's containers have all packages. Without them, Bridge 0.6.2 and megatron-core 0.19.2 would only raise
once the GPUs are allocated. Values that the config sets itself are not changed.
"""

from collections.abc import Collection, Iterator
from typing import Any

from trainer.bridge.compat import is_installed

FLASH_ATTENTION = ("flash_attn", "flash_attn_interface", "flash_attn_3")


def apply_fallbacks(model: Any, given: Collection[str]) -> None:
    """Fallback settings of a model's provider that need missing packages, and print each change.

    given: dotted keys of ConfigContainer that the config sets.
    """
    for name, value, why in (*_fusion(model), *_attention(model), *_dispatcher(model)):
        if f"model.{name}" not in given:
            setattr(model, name, value)
            print(f"trainer: model.{name}={getattr(value, 'name', value)}, as {why}", flush=True)


Fallback = tuple[str, Any, str]
"""Field, its new value, and why it is changed."""


def _fusion(model: Any) -> Iterator[Fallback]:
    """Bridge enables fusion with Transformer Engine. megatron-core's output layer raises without APEX."""
    if model.gradient_accumulation_fusion and not is_installed("fused_weight_gradient_mlp_cuda"):
        yield "gradient_accumulation_fusion", False, "APEX is not installed"


def _attention(model: Any) -> Iterator[Fallback]:
    """Hybrids default to flash, and then Transformer Engine may not use another backend."""
    from megatron.core.transformer.enums import AttnBackend

    if model.attention_backend == AttnBackend.flash and not any(map(is_installed, FLASH_ATTENTION)):
        yield "attention_backend", AttnBackend.fused, "flash-attn is not installed"


def _dispatcher(model: Any) -> Iterator[Fallback]:
    """DeepEP dispatches tokens between ranks. The recipe's alternative is alltoall."""
    if getattr(model, "moe_token_dispatcher_type", None) != "flex":
        return
    if (model.expert_tensor_parallel_size or 1) * model.expert_model_parallel_size == 1:
        yield "moe_token_dispatcher_type", "alltoall", "one rank holds all experts"
    elif not is_installed("deep_ep"):
        yield "moe_token_dispatcher_type", "alltoall", "DeepEP is not installed"
