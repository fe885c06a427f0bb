"""Presets: named training configs in trainer/config/configs/*.yaml. No torch."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

DIRECTORY = Path(__file__).parent / "configs"

# Parameters and most used overrides that NVIDIA's step documents.
PARAMETERS = (
    "seq_length", "peft", "hf_model_path", "recipe.tensor_model_parallel_size",
    "recipe.pipeline_model_parallel_size", "train.global_batch_size", "train.train_iters", "checkpoint.save",
    "dataset.nano3_packed_sft_dir",
)  # fmt: skip


class PresetNotFound(LookupError):
    """There is no preset of this name. The message suggests the nearest name."""


class PresetResources(BaseModel):
    model_config = ConfigDict(extra="forbid")

    nodes: int | None = None
    gpus_per_node: int | None = None
    time_limit_minutes: int | None = None


class Preset(BaseModel):
    """A training config that a job can select by name."""

    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    resources: PresetResources = Field(default_factory=PresetResources)
    config: dict[str, Any] = Field(
        description="Values of the training config. Other keys have their defaults."
    )


def preset_names() -> list[str]:
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def load_preset(name: str) -> Preset:
    """Read a preset. Raises PresetNotFound."""
    names = preset_names()
    if name not in names:
        nearest = get_close_matches(name, names, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"available: {', '.join(names)}."
        raise PresetNotFound(f"There is no preset {name!r}: {hint}")
    return Preset(name=name, **yaml.safe_load((DIRECTORY / f"{name}.yaml").read_text()))
