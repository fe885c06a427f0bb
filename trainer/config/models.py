"""Models with a recipe in Megatron-Bridge, and their requirements. No torch."""

from typing import Any

from pydantic import BaseModel, Field

NANO = "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"
SUPER = "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16"


class Model(BaseModel):
    """A base model with its own recipe. Any other Hugging Face path works through AutoBridge."""

    id: str
    min_gpus: int = Field(description="Minimum number of GPUs for full fine-tuning.")
    default: bool
    notes: str
    sft_recipe: str = Field(description="Megatron-Bridge's recipe for full fine-tuning.")
    peft_recipe: str = Field(description="Megatron-Bridge's recipe for adapter tuning.")
    seq_lengths: list[int] | None = Field(
        default=None, description="Allowed lengths up to 32768; null if any length is allowed."
    )


# Any longer sequence is allowed, with NVIDIA's advice on long sequences.
LONGEST_LISTED_TOKENS = 32768
SEED_LENGTHS = [2048, 4096, 8192, 16384, 32768]

MODELS = (
    Model(
        id=NANO,
        min_gpus=8,
        default=True,
        notes="Nemotron 3 Nano, 31.6 billion total and 3.2 billion active parameters.",
        sft_recipe="nemotron_3_nano_sft_config",
        peft_recipe="nemotron_3_nano_peft_config",
        seq_lengths=SEED_LENGTHS,
    ),
    Model(
        id=SUPER,
        min_gpus=32,
        default=False,
        notes="Nemotron 3 Super, 120.6 billion total and 12.7 billion active parameters.",
        sft_recipe="nemotron_3_super_sft_config",
        # nemotron_3_super_peft_config is for one GPU with more than 240 GB.
        peft_recipe="nemotron_3_super_peft_16gpu_h100_bf16_config",
        seq_lengths=SEED_LENGTHS,
    ),
    Model(
        id="nvidia/NVIDIA-Nemotron-3.5-Lightning-30B-A3B-BF16",
        min_gpus=8,
        default=False,
        notes="Nemotron 3.5 Lightning, 30 billion total and 3 billion active parameters.",
        sft_recipe="nemotron_3_5_lightning_sft_config",
        peft_recipe="nemotron_3_5_lightning_peft_config",
    ),
    Model(
        id="nvidia/NVIDIA-Nemotron-3-Nano-4B-BF16",
        min_gpus=1,
        default=False,
        notes="Nemotron 3 Nano 4B, dense.",
        sft_recipe="nemotron_3_nano_4b_sft_config",
        peft_recipe="nemotron_3_nano_4b_peft_config",
    ),
)


def known_model(hf_model_path: str | None) -> Model | None:
    return next((model for model in MODELS if model.id == hf_model_path), None)


def narrowed(hf_model_path: str | None) -> dict[str, dict[str, Any]]:
    """JSON Schema of the training config's fields that a model restricts."""
    model = known_model(hf_model_path)
    if model is None or model.seq_lengths is None:
        return {}
    return {
        "seq_length": {"anyOf": [{"enum": model.seq_lengths}, {"exclusiveMinimum": LONGEST_LISTED_TOKENS}]}
    }
