"""The models of NVIDIA's step sft/megatron_bridge, and what they need. No torch."""

from pydantic import BaseModel


class Model(BaseModel):
    """A base model that the service knows; any other Hugging Face path works through AutoBridge."""

    id: str
    min_gpus: int
    default: bool
    notes: str


MODELS = (
    Model(
        id="nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        min_gpus=8,
        default=True,
        notes="Nemotron 3 Nano, 31.6 billion total and 3.2 billion active parameters.",
    ),
    Model(
        id="nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-BF16",
        min_gpus=32,
        default=False,
        notes="Nemotron 3 Super, 120.6 billion total and 12.7 billion active parameters.",
    ),
)
