"""Models on the Hugging Face hub, as directories."""

from typing import Any

from trainer.config.training_config import is_local

# Weights twice (.bin, original/) and what other programs read stay where they are.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")


def directory_of(model: str, tokenizer: Any) -> str:
    """Where a base model's files lie; of the hub's they are fetched, unless the cache has them.

    Bridge itself takes weights from directories alone. All ranks may do this at once: the hub's client locks
    each file. Where a recipe pins the tokenizer's revision, the weights are of the same.
    """
    if is_local(model):
        return model
    from huggingface_hub import constants, snapshot_download

    pinned = (tokenizer.hf_tokenizer_kwargs or {}) if tokenizer.tokenizer_model == model else {}
    found = snapshot_download(
        model,
        revision=pinned.get("revision"),
        allow_patterns=list(WANTED),
        # Of a pinned revision it would ask the hub which files there are, offline or not.
        local_files_only=constants.HF_HUB_OFFLINE,
    )
    return str(found)
