"""Checks of a config against the files it names: made at submission, and again before torch is imported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from trainer.checkpoints import latest_complete
from trainer.config import TrainingConfig, is_local
from trainer.dataset import MissingPackedData, find_shards
from trainer.failures import FAILURES


class Finding(BaseModel):
    """Something that a check has to say about a config."""

    code: str
    severity: Literal["error", "warning", "advice", "unverified"]
    pointer: str = Field(
        description="JSON pointer: of the trainer into its config, of a plan into the request."
    )
    message: str
    hint: str | None = None
    suggestion: dict[str, Any] | None = Field(default=None, description="field, from and to of a change.")


def _error(code: str, pointer: str, message: str, hint: str) -> Finding:
    return Finding(code=code, severity="error", pointer=pointer, message=message, hint=hint)


def check(config: TrainingConfig, world_size: int) -> list[Finding]:  # noqa: ARG001
    """All findings about a config that would run on `world_size` ranks."""
    return [*_data(config), *_base(config)]


def _data(config: TrainingConfig) -> Iterator[Finding]:
    pointer = "/dataset/nano3_packed_sft_dir"
    directory = config.dataset.nano3_packed_sft_dir
    recovery = FAILURES["missing_packed_data"].recovery
    if directory is None:
        yield _error(
            "missing_packed_data",
            pointer,
            "No packed data is named.",
            f"Set inputs.packed_parquet. {recovery}",
        )
        return
    try:
        find_shards(Path(directory))
    except (MissingPackedData, OSError) as error:
        yield _error("missing_packed_data", pointer, str(error), recovery)


def _base(config: TrainingConfig) -> Iterator[Finding]:
    """Where the weights come from. A base that is named and not there is never passed over in silence."""
    if config.hf_model_path is None:
        hint = "Set hf_model_path to a Hugging Face id or a local directory."
        yield _error("missing_model", "/hf_model_path", "No base model is named.", hint)
    elif is_local(config.hf_model_path) and not (Path(config.hf_model_path) / "config.json").is_file():
        message = f"{config.hf_model_path} is not a Hugging Face model: it has no config.json."
        yield _error(
            "bad_checkpoint", "/hf_model_path", message, "Name a directory with config.json and weights."
        )
    if config.checkpoint_megatron and latest_complete(Path(config.checkpoint_megatron)) is None:
        message = f"{config.checkpoint_megatron} holds no complete Megatron checkpoint."
        hint = "Name the directory that holds iter_*, or leave it out to begin from hf_model_path."
        yield _error("bad_checkpoint", "/checkpoint_megatron", message, hint)
