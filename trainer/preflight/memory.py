"""An estimate of one GPU's memory: weights, gradients, optimizer states, activations.

Parameters are counted from the model's sizes. Bytes per parameter are those of mixed precision with Adam:
2 weights, 2 or 4 gradients, 12 optimizer (float32 copy and two moments), the last split over the
data-parallel ranks by the distributed optimizer. Activations: what layers keep for the backward pass
(Korthikanti et al. 2022, arXiv 2205.05198, section 4, with flash attention); where all is recomputed,
their inputs and one layer's. On H100 it was within 4% for a dense model (docs/gpu.md).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel, Field

from trainer.config.effective import Effective, is_unseen
from trainer.preflight.finding import Finding, finding
from trainer.preflight.hardware import Hardware
from trainer.preflight.shape import Shape, shape_of

GIB = 2**30
TIGHT_SHARE = 0.85
LEAVES_OUT = (
    "CUDA context, communication buffers, fragmentation, multi-token-prediction layers, "
    "workspaces of kernels; experts are taken to be used evenly"
)


class Estimate(BaseModel):
    """Memory of the fullest GPU in GiB."""

    parameters: int = Field(description="Parameters of the model.")
    weights_gib: float
    gradients_gib: float
    optimizer_gib: float
    activations_gib: float
    total_gib: float
    leaves_out: str = LEAVES_OUT


@dataclass(frozen=True)
class Parameters:
    """Parameters by how they are split."""

    dense: int
    experts: int
    embeddings: int
    adapters: int

    @property
    def total(self) -> int:
        return self.dense + self.experts + self.embeddings


def estimate(effective: Effective, hardware: Hardware) -> Estimate | None:
    """None where the model's sizes are not known, or the shape does not fit the GPUs."""
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
            f"A GPU would hold about {of.total_gib:g} GiB (an estimate); what it has is not known.",
            "The cluster's profile can say it: gpu_memory_gib.",
        )  # fmt: skip
    elif memory is not None and of is not None and of.total_gib > memory:
        yield finding(
            "warning", "oom_likely", effective.pointer("model.tensor_model_parallel_size"),
            f"A GPU would hold about {of.total_gib:g} GiB, and has {memory:g} (an estimate).",
            "Increase parallelism, use more GPUs, reduce seq_length, or set peft=lora.",
        )  # fmt: skip


# -- parameters ------------------------------------------------------------------------------------


def _is_known(effective: Effective) -> bool:
    if is_unseen(effective.config.hf_model_path, files=effective.files):
        return False
    return bool(_layers(effective).total() and effective.count("model.hidden_size", 0))


def count(effective: Effective) -> Parameters:
    """Parameters of a model whose sizes are known."""
    layers = _layers(effective)
    vocabulary = effective.count("model.vocab_size", 0) * effective.count("model.hidden_size")
    return Parameters(
        dense=sum(number * _dense(kind, effective) for kind, number in layers.items()),
        experts=layers["E"] * _experts(effective),
        embeddings=vocabulary * (1 if _tied(effective) else 2),
        adapters=sum(number * _adapter(kind, effective) for kind, number in layers.items()),
    )


def _tied(effective: Effective) -> bool:
    """Whether one matrix serves as embedding and output layer: the model's own config.json knows it."""
    key = "model.share_embeddings_and_output_weights"
    if effective.hf and key not in effective.given:
        return bool(effective.hf.get("tie_word_embeddings", False))
    return bool(effective.get(key))


# As transformers 5 names a hybrid's layers in config.json, and as Bridge's patterns do.
BLOCKS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}


def _pattern(effective: Effective) -> str | None:
    """A hybrid's layers by their letters: M Mamba, * attention, - MLP, E experts."""
    pattern, blocks = effective.get("model.hybrid_layer_pattern"), effective.hf.get("layers_block_type")
    if isinstance(blocks, list) and not pattern:
        pattern = "".join(BLOCKS.get(str(block), "") for block in blocks)
    return pattern.replace("|", "") or None if isinstance(pattern, str) else None


def _layers(effective: Effective) -> Counter[str]:
    """Layers of each kind."""
    pattern = _pattern(effective)
    if pattern:
        return Counter(pattern)
    mlp = "E" if effective.count("model.num_moe_experts", 0) else "-"
    return Counter(dict.fromkeys(("*", mlp), effective.count("model.num_layers", 0)))


def _dense(kind: str, effective: Effective) -> int:
    """Parameters of a layer that are not routed experts'; norms and biases are too few to count."""
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
    """Of what goes into the scan (z, x, B, C, dt) and what comes out."""
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
    """Matrices of an MLP: a gated one has three."""
    gated = effective.get("model.gated_linear_unit") or effective.hf.get("hidden_act") == "silu"
    return 3 if gated else 2


def _adapter(kind: str, effective: Effective) -> int:
    """LoRA's two thin matrices for each of a layer's projections, about."""
    rank = effective.count("lora.dim", 32)
    width = effective.count("model.ffn_hidden_size", effective.count("model.hidden_size"))
    return 2 * rank * (effective.count("model.hidden_size") + (width if kind in "-E" else 0)) * 2


# -- bytes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bytes:
    """Bytes a parameter."""

    weight: int
    gradient: int
    optimizer: int


def _bytes(effective: Effective) -> Bytes:
    if effective.config.device == "cpu":
        return Bytes(weight=4, gradient=4, optimizer=8)
    precise = effective.get("mixed_precision.grad_reduce_in_fp32") or effective.get("ddp.grad_reduce_in_fp32")
    return Bytes(weight=2, gradient=4 if precise else 2, optimizer=12)


def _copies(effective: Effective, ranks: int) -> int:
    """Ranks over which the optimizer's states are split."""
    return max(1, ranks) if effective.get("ddp.use_distributed_optimizer") else 1


# Of a token, by hidden unit: what attention keeps, norm included; what other layers keep beside their
# inner widths; a layer's input.
ATTENTION_BYTES, OTHER_BYTES, INPUT_BYTES = 13, 5, 2
# By vocabulary entry: bf16 logits, their float32 copy, its softmax and gradient; Transformer Engine's loss
# writes the gradient over the logits.
LOGIT_BYTES, LOGIT_BYTES_OF_TE = 12, 4


def _activations(effective: Effective, shape: Shape) -> float:
    """Of all layers: a pipeline stage has 1/PP of them, and PP micro batches in flight."""
    tokens = effective.config.seq_length / shape.context
    kinds = _layers(effective)
    kept = {kind: _kept(kind, effective) for kind in kinds}
    layers = sum(number * kept[kind] for kind, number in kinds.items())
    if effective.get("model.recompute_granularity") == "full":
        is_hybrid = _pattern(effective) is not None
        number = kinds.total() if is_hybrid else effective.count("model.num_layers")
        # A hybrid's layer is of one kind; another has attention and MLP.
        largest = max(kept.values()) if is_hybrid else sum(kept.values())
        layers = number * effective.count("model.hidden_size") * INPUT_BYTES + largest
    by_te = effective.get("model.cross_entropy_fusion_impl") == "te"
    logits = effective.count("model.vocab_size", 0) * (LOGIT_BYTES_OF_TE if by_te else LOGIT_BYTES)
    return tokens * (layers + logits) / shape.tensor


def _kept(kind: str, effective: Effective) -> int:
    """Bytes of a token in a layer."""
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
    """By inner unit: what all matrices but the last put out, and what the activation makes of it."""
    return 2 * _matrices(effective)


def _routed(effective: Effective) -> int:
    """Bytes of a token in one layer's routed experts: what goes in and out, and what is between."""
    width = effective.count("model.moe_latent_size", effective.count("model.hidden_size"))
    of_one = 4 * width + _mlp_bytes(effective) * _expert_ffn(effective)
    return effective.count("model.moe_router_topk") * of_one
