"""Where the weights come from. A base that is named and not there is never passed over in silence."""

from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.checkpoints import latest_complete
from trainer.config.training_config import TrainingConfig, is_local
from trainer.preflight.finding import LOOKED_AT_THERE, NOT_SEEN, Finding, finding


def check(config: TrainingConfig, *, files: bool = True) -> Iterator[Finding]:
    """What is resumed comes first, then checkpoint_megatron, then the weights of hf_model_path.

    files: whether the files that the config names are seen from here.
    """
    if not files:
        yield from _unseen(config)
        return
    yield from _model(config.hf_model_path)
    yield from _megatron("/checkpoint_megatron", config.checkpoint_megatron)
    yield from _megatron("/checkpoint/load", config.checkpoint.get("load"))
    if not config.checkpoint_megatron and not config.checkpoint.get("load"):
        yield from _weights(config.hf_model_path)


def check_export(config: TrainingConfig, *, files: bool = True) -> Iterator[Finding]:
    """An export needs the base's weights only where adapters are merged with them. files: as for check."""
    if config.peft or not files:
        yield from check(config, files=files)
    else:
        yield from _model(config.hf_model_path)


def _unseen(config: TrainingConfig) -> Iterator[Finding]:
    if config.hf_model_path is None:
        yield from _model(None)
    elif is_local(config.hf_model_path):
        message = f"{config.hf_model_path} {NOT_SEEN}: neither its sizes nor its weights are known."
        yield finding("unverified", "unseen_model", "/hf_model_path", message, LOOKED_AT_THERE)
    begins_from = {
        "/checkpoint_megatron": config.checkpoint_megatron,
        "/checkpoint/load": config.checkpoint.get("load"),
    }
    for where, path in begins_from.items():
        if path:
            message = f"{path} {NOT_SEEN}."
            yield finding("unverified", "unseen_checkpoint", where, message, LOOKED_AT_THERE)


def _megatron(where: str, path: object) -> Iterator[Finding]:
    if isinstance(path, str) and not seen(lambda: latest_complete(Path(path))):
        message = f"{path} holds no complete Megatron checkpoint."
        hint = "Name the directory that holds iter_*, or leave it out to begin from hf_model_path."
        yield finding("error", "bad_checkpoint", where, message, hint)


WEIGHTS = ("*.safetensors", "*.bin")


def _weights(path: str | None) -> Iterator[Finding]:
    """A local model without weights is one to take the tokenizer and the sizes from, not to begin with."""
    if path is None or not is_local(path) or not _has_config(path):
        return
    if not any(file for pattern in WEIGHTS for file in Path(path).glob(pattern)):
        message = f"{path} holds no weights: no .safetensors and no .bin file."
        hint = "Download the model's weights there, or name a checkpoint_megatron to begin from."
        yield finding("error", "bad_checkpoint", "/hf_model_path", message, hint)


def _model(path: str | None) -> Iterator[Finding]:
    if path is None:
        hint = "Set hf_model_path to a Hugging Face id or a local directory."
        yield finding("error", "missing_model", "/hf_model_path", "No base model is named.", hint)
    elif is_local(path) and not _has_config(path):
        message = f"{path} is not a Hugging Face model: it has no config.json."
        hint = "Name a directory with config.json and weights."
        yield finding("error", "bad_checkpoint", "/hf_model_path", message, hint)


def _has_config(path: str) -> bool:
    return seen((Path(path) / "config.json").is_file)


def seen(look: Callable[[], object]) -> bool:
    """Whether something is there; what cannot be looked at, or has too long a name, is not."""
    try:
        return bool(look())
    except OSError:
        return False
