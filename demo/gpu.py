"""`python -m demo.gpu DIR`: make models with random weights, and packed data, in the trainer's environment.

DIR/models/{dense,narrow,small,hybrid}   Hugging Face directories with one tokenizer
DIR/packed/{4096,4096-padded,131072}     packs; those in 4096-padded can be split over two ranks
"""

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from demo import model, records
from demo.prepare import once, pack

VOCABULARY = 32_768
LONG = 131_072


def make(directory: Path) -> None:
    """Make the models and packed data that are missing."""
    for folder in ("models", "packed"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    source = directory / "records.jsonl"
    once(source, _write_records)
    for name in MODELS:
        once(directory / "models" / name, partial(_model, source, name))
    for name in PACKED:
        once(directory / "packed" / name, partial(_packed, source, directory / "models" / "small", name))


def _write_records(path: Path) -> None:
    records.write(path)


def _packed(source: Path, tokenizer: Path, name: str, directory: Path) -> None:
    size, multiple = PACKED[name]
    pack(source, tokenizer, directory, size, multiple=multiple)


def _model(source: Path, name: str, directory: Path) -> None:
    import torch

    model.make_tokenizer(source, directory)
    torch.manual_seed(model.SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        weights = MODELS[name]()
    weights.to(torch.bfloat16).save_pretrained(directory)
    if name == "hybrid":
        _name_as_published(directory / "model.safetensors")


def _name_as_published(weights: Path) -> None:
    """Restore NVIDIA's name of a tensor: transformers 5 reads it but writes another, unknown to Bridge."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights)
    tensors["backbone.embeddings.weight"] = tensors.pop("backbone.embedding.weight")
    save_file(tensors, weights, metadata={"format": "pt"})


def _llama(**sizes: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    fixed = {"tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return LlamaForCausalLM(LlamaConfig(max_position_embeddings=LONG, **fixed, **sizes))


def _billion(vocabulary: int) -> Any:
    """1.1 billion parameters with a vocabulary of 32,768."""
    return _llama(
        vocab_size=vocabulary, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8,
    )  # fmt: skip


def _small() -> Any:
    """100 million parameters."""
    return _llama(
        vocab_size=model.VOCABULARY, hidden_size=1024, intermediate_size=2816, num_hidden_layers=8,
        num_attention_heads=16, num_key_value_heads=4,
    )  # fmt: skip


def _hybrid() -> Any:
    """46 million parameters in Mamba, attention and expert layers, like the Nemotron 3 family."""
    from transformers import AutoModelForCausalLM, NemotronHConfig

    return AutoModelForCausalLM.from_config(NemotronHConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1024, num_attention_heads=8,
        num_key_value_heads=2, head_dim=64, mamba_num_heads=16, mamba_head_dim=64, n_groups=8,
        ssm_state_size=64, hybrid_override_pattern="MEM*EM", num_hidden_layers=6, n_routed_experts=8,
        num_experts_per_tok=2, moe_intermediate_size=256, moe_shared_expert_intermediate_size=512,
        n_shared_experts=1, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    ))  # fmt: skip


MODELS: dict[str, Callable[[], Any]] = {
    "small": _small,
    "dense": lambda: _billion(VOCABULARY),
    # The memory of `narrow` holds mostly activations, not logits.
    "narrow": lambda: _billion(model.VOCABULARY),
    "hybrid": _hybrid,
}
PACKED = {"4096": (4096, 1), "4096-padded": (4096, 4), str(LONG): (LONG, 1)}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    make(Path(sys.argv[1]).absolute())
