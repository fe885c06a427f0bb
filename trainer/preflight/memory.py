"""Estimate one GPU's memory: weights, gradients, optimizer states, activations.

Parameters are counted from the model's sizes. Bytes per parameter are those of mixed precision with Adam:
2 weights, 2 or 4 gradients, 12 optimizer (float32 copy and two moments). The distributed optimizer splits
the optimizer states over the data-parallel ranks. Activations are what layers keep for the backward pass
(Korthikanti et al. 2022, arXiv 2205.05198, section 4, with flash attention); with full recomputation, the
inputs of all layers and the activations of one. On H100 the estimate was within 4% for a dense model
(docs/gpu.md).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, Field

from trainer.config.effective import Effective, is_only_on_cluster
from trainer.dataset.vocabulary import MAX_PATTERN
from trainer.preflight.finding import Finding, finding
from trainer.preflight.hardware import Hardware
from trainer.preflight.shape import Shape, shape_of

GIB = 2**30
TIGHT_SHARE = 0.85
LEAVES_OUT = (
    "CUDA context, communication buffers, fragmentation, multi-token-prediction layers, "
    "kernel workspaces; assumes that experts are used evenly"
)


class Estimate(BaseModel):
    """Memory of the GPU that uses most, in GiB."""

    parameters: int = Field(description="Parameters of the model.")
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    activations_gib: float
    total_gib: float
    leaves_out: str = LEAVES_OUT


@dataclass(frozen=True)
class Parameters:
    """Parameter counts, grouped by how they are split over GPUs."""

    dense: int
    experts: int
    embeddings: int
    adapters: int

    @property
    def total(self) -> int:
        return self.dense + self.experts + self.embeddings


def estimate(effective: Effective, hardware: Hardware) -> Estimate | None:
    """Estimate the memory of one GPU; None if the model's sizes are unknown or the shape does not fit."""
    shape = shape_of(effective)
    if not _is_known(effective) or hardware.gpus % shape.dense or hardware.gpus % shape.experts:
        return None
    parameters = count(effective)
    dense = parameters.dense / shape.tensor / shape.pipeline + parameters.embeddings / shape.tensor
    experts = parameters.experts / shape.experts
    adapters = parameters.adapters / shape.tensor / shape.pipeline
    lora = effective.config.peft is not None
    bytes_ = _bytes(effective)
    trained, sharded = (adapters, 0.0) if lora else (dense, experts)
    states = bytes_.optimizer * (
        trained / _copies(effective, hardware.gpus // (shape.tensor * shape.pipeline))
        + sharded / _copies(effective, hardware.gpus // shape.experts)
    )
    parts = {
        "weights_gib": bytes_.weight * (dense + experts + (adapters if lora else 0)),
        "gradients_gib": bytes_.gradient * (trained + sharded),
        "optimizer_gib": states,
        "activations_gib": _activations(effective, shape),
    }
    rounded = {name: round(part / GIB, 2) for name, part in parts.items()}
    return Estimate(parameters=parameters.total, total_gib=round(sum(parts.values()) / GIB, 2), **rounded)


def check(effective: Effective, hardware: Hardware, of: Estimate | None) -> Iterator[Finding]:
    memory = hardware.gpu_memory_gib
    if memory is None and of is not None and effective.config.device == "cuda":
        yield finding(
            "unverified", "gpu_memory_unknown", "/device",
            f"A GPU would hold about {of.total_gib:g} GiB (an estimate); the memory of a GPU is unknown.",
            "Set gpu_memory_gib in the cluster's profile.",
        )  # fmt: skip
    elif memory is not None and of is not None and of.total_gib > memory:
        yield finding(
            "warning", "oom_likely", effective.pointer("model.tensor_model_parallel_size"),
            f"A GPU would hold about {of.total_gib:g} GiB, and has {memory:g} (an estimate).",
            "Increase parallelism, use more GPUs, reduce seq_length, or set peft=lora.",
        )  # fmt: skip


# -- parameters ------------------------------------------------------------------------------------


def _is_known(effective: Effective) -> bool:
    if is_only_on_cluster(effective.config.hf_model_path, files=effective.files):
        return False
    return bool(_layers(effective).total() and effective.count("model.hidden_size", 0))


def count(effective: Effective) -> Parameters:
    """Count the parameters of a model whose sizes are known."""
    layers = _layers(effective)
    vocabulary = effective.count("model.vocab_size", 0) * effective.count("model.hidden_size")
    return Parameters(
        dense=sum(number * _dense(kind, effective) for kind, number in layers.items()),
        experts=layers["E"] * _experts(effective),
        embeddings=vocabulary * (1 if _tied(effective) else 2),
        adapters=sum(number * _adapter(kind, effective) for kind, number in layers.items()),
    )


def _tied(effective: Effective) -> bool:
    """Whether embedding and output layer share one matrix. The model's config.json has precedence."""
    key = "model.share_embeddings_and_output_weights"
    if effective.hf and key not in effective.given:
        return bool(effective.hf.get("tie_word_embeddings", False))
    return bool(effective.get(key))


# Names of a hybrid's layers in config.json of transformers 5 -> their letters in Bridge's patterns.
BLOCKS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


def _pattern(effective: Effective) -> str | None:
    """A hybrid's layers as letters: M Mamba, * attention, - MLP, E experts. None for other models."""
    pattern, blocks = effective.get("model.hybrid_layer_pattern"), effective.hf.get("layers_block_type")
    if isinstance(blocks, list) and not pattern:
        pattern = "".join(BLOCKS.get(str(block), "") for block in blocks[:MAX_PATTERN])
    if not isinstance(pattern, str) or len(pattern) > MAX_PATTERN:
        return None
    return pattern.replace("|", "") or None


def _layers(effective: Effective) -> Counter[str]:
    """Number of layers of each kind."""
    pattern = _pattern(effective)
    if pattern:
        return Counter(pattern)
    mlp = "E" if effective.count("model.num_moe_experts", 0) else "-"
    return Counter(dict.fromkeys(("*", mlp), effective.count("model.num_layers", 0)))


def _dense(kind: str, effective: Effective) -> int:
    """Parameters of a layer, without routed experts. Norms and biases are negligible."""
    hidden, size = effective.count("model.hidden_size"), effective.count
    if kind == "*":
        heads = size("model.num_attention_heads")
        width = size("model.kv_channels", hidden // heads)
        groups = size("model.num_query_groups", heads)
        return hidden * width * (2 * heads + 2 * groups)
    if kind == "M":
        return hidden * _mamba_width(effective)
    if kind == "E":
        latent = size("model.moe_latent_size", 0)
        shared = _matrices(effective) * hidden * size("model.moe_shared_expert_intermediate_size", 0)
        return shared + 2 * hidden * latent + hidden * size("model.num_moe_experts")
    return _matrices(effective) * hidden * size("model.ffn_hidden_size", 4 * hidden)


def _mamba_width(effective: Effective) -> int:
    """Width of the scan's inputs (z, x, B, C, dt) and its output."""
    size = effective.count
    inner = size("model.mamba_num_heads") * size("model.mamba_head_dim")
    states = 2 * size("model.mamba_num_groups") * size("model.mamba_state_dim")
    return 3 * inner + states + size("model.mamba_num_heads")


def _experts(effective: Effective) -> int:
    """Parameters of one layer's routed experts."""
    width = effective.count("model.moe_latent_size", effective.count("model.hidden_size"))
    return effective.count("model.num_moe_experts") * _matrices(effective) * width * _expert_ffn(effective)


def _expert_ffn(effective: Effective) -> int:
    return effective.count("model.moe_ffn_hidden_size", effective.count("model.ffn_hidden_size"))


def _matrices(effective: Effective) -> int:
    """Number of matrices of an MLP: 3 if it is gated, else 2."""
    gated = effective.get("model.gated_linear_unit") or effective.hf.get("hidden_act") == "silu"
    return 3 if gated else 2


def _adapter(kind: str, effective: Effective) -> int:
    """Approximate parameters of LoRA: two thin matrices for each projection of a layer."""
    rank = effective.count("lora.dim", 32)
    width = effective.count("model.ffn_hidden_size", effective.count("model.hidden_size"))
    return 2 * rank * (effective.count("model.hidden_size") + (width if kind in "-E" else 0)) * 2


# -- bytes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bytes:
    """Bytes per parameter."""

    weight: int
    gradient: int
    optimizer: int


def _bytes(effective: Effective) -> Bytes:
    if effective.config.device == "cpu":
        return Bytes(weight=4, gradient=4, optimizer=8)
    precise = effective.get("mixed_precision.grad_reduce_in_fp32") or effective.get("ddp.grad_reduce_in_fp32")
    return Bytes(weight=2, gradient=4 if precise else 2, optimizer=12)


def _copies(effective: Effective, ranks: int) -> int:
    """Number of ranks over which the optimizer states are split."""
    return max(1, ranks) if effective.get("ddp.use_distributed_optimizer") else 1


# Bytes per token and hidden unit: kept by attention, norm included; kept by other layers besides their
# inner widths; input of a layer.
ATTENTION_BYTES, OTHER_BYTES, INPUT_BYTES = 13, 5, 2
# Bytes per token and vocabulary entry: bf16 logits, float32 copy, softmax and gradient. Transformer Engine's
# loss overwrites the logits with the gradient.
LOGIT_BYTES, LOGIT_BYTES_OF_TE = 12, 4


def _activations(effective: Effective, shape: Shape) -> float:
    """Bytes of all layers: a pipeline stage has 1/PP of the layers, and PP micro batches in flight."""
    tokens = effective.config.seq_length / shape.context
    kinds = _layers(effective)
    kept = {kind: _kept(kind, effective) for kind in kinds}
    layers = sum(number * kept[kind] for kind, number in kinds.items())
    if effective.get("model.recompute_granularity") == "full":
        is_hybrid = _pattern(effective) is not None
        number = kinds.total() if is_hybrid else effective.count("model.num_layers")
        # A layer of a hybrid has one kind; a layer of other models has attention and MLP.
        largest = max(kept.values()) if is_hybrid else sum(kept.values())
        layers = number * effective.count("model.hidden_size") * INPUT_BYTES + largest
    by_te = effective.get("model.cross_entropy_fusion_impl") == "te"
    logits = effective.count("model.vocab_size", 0) * (LOGIT_BYTES_OF_TE if by_te else LOGIT_BYTES)
    return tokens * (layers + logits) / shape.tensor


def _kept(kind: str, effective: Effective) -> int:
    """Bytes per token that a layer keeps."""
    hidden = effective.count("model.hidden_size")
    if kind == "*":
        return ATTENTION_BYTES * hidden
    if kind == "M":
        return OTHER_BYTES * hidden + 2 * _mamba_width(effective)
    if kind == "E":
        shared = _mlp_bytes(effective) * effective.count("model.moe_shared_expert_intermediate_size", 0)
        return OTHER_BYTES * hidden + shared + _routed(effective)
    return OTHER_BYTES * hidden + _mlp_bytes(effective) * effective.count("model.ffn_hidden_size", 4 * hidden)


def _mlp_bytes(effective: Effective) -> int:
    """Bytes per inner unit: outputs of all matrices but the last, and of the activation function."""
    return 2 * _matrices(effective)


def _routed(effective: Effective) -> int:
    """Bytes per token in one layer's routed experts: inputs, outputs and intermediate values."""
    width = effective.count("model.moe_latent_size", effective.count("model.hidden_size"))
    of_one = 4 * width + _mlp_bytes(effective) * _expert_ffn(effective)
    return effective.count("model.moe_router_topk") * of_one
