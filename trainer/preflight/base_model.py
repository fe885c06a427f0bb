"""Check the base weights. A base that is named but missing is always a finding."""

from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.checkpoints import fault_of, iteration_directory, iterations, latest_complete
from trainer.config.training_config import TrainingConfig, is_local
from trainer.preflight import hf_config
from trainer.preflight.finding import INSPECTED_THERE, ON_CLUSTER_ONLY, Finding, finding
from trainer.quoting import printable


def check(config: TrainingConfig, *, files: bool = True) -> Iterator[Finding]:
    """Check the model, the checkpoints and the weights that a run begins from.

    A run begins from checkpoint.load if set, else checkpoint_megatron, else the weights of hf_model_path.

    files: whether this machine can read the files that the config names.
    """
    if not files:
        yield from _unverified(config)
        return
    yield from _model(config.hf_model_path)
    yield from _megatron("/checkpoint_megatron", config.checkpoint_megatron)
    yield from _megatron("/checkpoint/load", config.checkpoint.get("load"))
    if not config.checkpoint_megatron and not config.checkpoint.get("load"):
        yield from _weights(config.hf_model_path)


def check_export(config: TrainingConfig, *, files: bool = True) -> Iterator[Finding]:
    """Check the base of an export. It needs the weights only to merge adapters. files: as for check."""
    if config.peft or not files:
        yield from check(config, files=files)
    else:
        yield from _model(config.hf_model_path)


def _unverified(config: TrainingConfig) -> Iterator[Finding]:
    if config.hf_model_path is None:
        yield from _model(None)
    elif is_local(config.hf_model_path):
        message = f"{config.hf_model_path} {ON_CLUSTER_ONLY}: its sizes and weights are unknown."
        yield finding("unverified", "unseen_model", "/hf_model_path", message, INSPECTED_THERE)
    checkpoints = {
        "/checkpoint_megatron": config.checkpoint_megatron,
        "/checkpoint/load": config.checkpoint.get("load"),
    }
    for where, path in checkpoints.items():
        if path:
            message = f"{path} {ON_CLUSTER_ONLY}."
            yield finding("unverified", "unseen_checkpoint", where, message, INSPECTED_THERE)


def _megatron(where: str, path: object) -> Iterator[Finding]:
    if isinstance(path, str) and not holds(lambda: latest_complete(Path(path))):
        message = f"{path} has no complete Megatron checkpoint{reason(path)}."
        hint = "Name the directory that contains iter_*, or omit the key to begin from hf_model_path."
        yield finding("error", "bad_checkpoint", where, message, hint)


def reason(path: str) -> str:
    """Describe what is wrong with the newest save of a directory, as the end of a message."""
    try:
        saves = iterations(Path(path))
        newest = iteration_directory(Path(path), saves[0]) if saves else Path(path)
        return f": {printable(newest)}: {fault_of(newest)}"
    except OSError as error:
        return f": {error.strerror}"


WEIGHTS = ("*.safetensors", "*.bin")


def _weights(path: str | None) -> Iterator[Finding]:
    """Reject a local model without weights: it only provides the tokenizer and the sizes."""
    if path is None or not is_local(path) or not _has_config(path):
        return
    if not any(file for pattern in WEIGHTS for file in Path(path).glob(pattern)):
        message = f"{path} has no weights: no .safetensors and no .bin file."
        hint = "Download the model's weights to it, or set checkpoint_megatron to begin from a checkpoint."
        yield finding("error", "bad_checkpoint", "/hf_model_path", message, hint)


def _model(path: str | None) -> Iterator[Finding]:
    if path is None:
        hint = "Set hf_model_path to a Hugging Face id or a local directory."
        yield finding("error", "missing_model", "/hf_model_path", "No base model is named.", hint)
    elif is_local(path) and not _has_config(path):
        message = f"{path} is not a Hugging Face model: it has no config.json."
        hint = "Name a directory with config.json and weights."
        yield finding("error", "bad_checkpoint", "/hf_model_path", message, hint)
    elif is_local(path):
        yield from hf_config.check(Path(path))


def _has_config(path: str) -> bool:
    return holds((Path(path) / "config.json").is_file)


def holds(condition: Callable[[], object]) -> bool:
    """Whether a condition on files holds. A path that is unreadable or too long does not meet it."""
    try:
        return bool(condition())
    except (OSError, ValueError):  # ValueError: no valid path, for example one with a NUL
        return False
