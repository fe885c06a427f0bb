"""Where the weights come from. A base that is named and not there is never passed over in silence."""

from collections.abc import Iterator
from pathlib import Path

from trainer.checkpoints import latest_complete
from trainer.config import TrainingConfig, is_local
from trainer.preflight.finding import Finding, finding


def check(config: TrainingConfig) -> Iterator[Finding]:
    yield from _model(config.hf_model_path)
    if config.checkpoint_megatron and latest_complete(Path(config.checkpoint_megatron)) is None:
        message = f"{config.checkpoint_megatron} holds no complete Megatron checkpoint."
        hint = "Name the directory that holds iter_*, or leave it out to begin from hf_model_path."
        yield finding("error", "bad_checkpoint", "/checkpoint_megatron", message, hint)


def _model(path: str | None) -> Iterator[Finding]:
    if path is None:
        hint = "Set hf_model_path to a Hugging Face id or a local directory."
        yield finding("error", "missing_model", "/hf_model_path", "No base model is named.", hint)
    elif is_local(path) and not (Path(path) / "config.json").is_file():
        message = f"{path} is not a Hugging Face model: it has no config.json."
        hint = "Name a directory with config.json and weights."
        yield finding("error", "bad_checkpoint", "/hf_model_path", message, hint)
