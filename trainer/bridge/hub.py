"""Download models from the Hugging Face hub."""

from typing import Any

from trainer.config.training_config import is_local

# Not downloaded: duplicate weights (.bin, original/) and files for other programs.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")


def directory_of(model: str, tokenizer: Any) -> str:
    """Directory of a base model. A model of the hub is downloaded unless it is in the cache.

    Bridge loads weights only from directories. All ranks may call this at once: the hub's client locks each
    file. If a recipe pins the revision of the tokenizer, the weights have the same revision.
    """
    if is_local(model):
        return model
    from huggingface_hub import constants, snapshot_download

    pinned = (tokenizer.hf_tokenizer_kwargs or {}) if tokenizer.tokenizer_model == model else {}
    found = snapshot_download(
        model,
        revision=pinned.get("revision"),
        allow_patterns=list(WANTED),
        # For a pinned revision the client would request the list of files from the hub, even offline.
        local_files_only=constants.HF_HUB_OFFLINE,
    )
    return str(found)
