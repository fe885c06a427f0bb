"""Check the parallel shape against the GPUs, the batch and the model.

megatron-core 0.19.2 arranges the ranks in two grids: TP x CP x PP for dense layers and ETP x EP x PP for
experts. Both sizes must divide the world size; the quotient is the data-parallel size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from trainer.config.effective import GENERIC, Effective
from trainer.config.models import known_model
from trainer.config.training_config import TrainingConfig
from trainer.preflight.finding import Finding, Suggestion, finding, suggest
from trainer.preflight.hardware import Hardware

CODE = "bad_parallel_batch_shape"


@dataclass(frozen=True)
class Shape:
    """Sizes of the parallel groups."""

    tensor: int
    pipeline: int
    context: int
    expert: int
    expert_tensor: int

    @property
    def dense(self) -> int:
        return self.tensor * self.pipeline * self.context

    @property
    def experts(self) -> int:
        return self.expert_tensor * self.expert * self.pipeline

    def data(self, gpus: int) -> int:
        """Number of replicas of the model on this number of GPUs."""
        return max(1, gpus // self.dense)


def shape_of(effective: Effective) -> Shape:
    tensor = effective.count("model.tensor_model_parallel_size")
    return Shape(
        tensor=tensor,
        pipeline=effective.count("model.pipeline_model_parallel_size"),
        context=effective.count("model.context_parallel_size"),
        expert=effective.count("model.expert_model_parallel_size"),
        # Defaults to the tensor-parallel size.
        expert_tensor=effective.count("model.expert_tensor_parallel_size", tensor),
    )


def fit(config: TrainingConfig, gpus: int, *, files: bool = True) -> list[Finding]:
    """Return the changes that fit a recipe's own shape to these GPUs: advice with values for `recipe.*`.

    A recipe is written for one number of GPUs. Experts are spread over fewer ranks if the recipe's number
    does not divide the GPUs. Mixtures of experts under tensor parallelism need sequence parallelism
    (megatron-core 0.19.2, moe_layer.py). Values that the config sets itself are not changed.

    files: whether this machine can read the files that the config names.
    """
    effective = Effective(config, files=files)
    shape = shape_of(effective)
    if gpus % shape.dense:
        return []  # nothing fits until that is fixed
    return [*_fit_experts(effective, shape, gpus), *_fit_sequence(effective, shape)]


def _fit_experts(effective: Effective, shape: Shape, gpus: int) -> Iterator[Finding]:
    if "model.expert_model_parallel_size" in effective.given or gpus % shape.experts == 0:
        return
    fitting = _largest_expert(effective, shape, gpus)
    if fitting is not None:
        yield _fitted(
            "expert_model_parallel_size", shape.expert, fitting,
            f"The recipe's EP {shape.expert} does not fit {gpus} GPUs with PP {shape.pipeline}. "
            f"EP is lowered to {fitting}.",
        )  # fmt: skip


def _fit_sequence(effective: Effective, shape: Shape) -> Iterator[Finding]:
    is_mixture = effective.count("model.num_moe_experts", 0) > 0
    is_open = "model.sequence_parallel" not in effective.given
    if is_mixture and is_open and shape.tensor > 1 and not effective.get("model.sequence_parallel"):
        yield _fitted(
            "sequence_parallel", False, True,
            "Experts under tensor parallelism need sequence parallelism. It is enabled.",
        )  # fmt: skip


def _fitted(name: str, current: int, to: int, message: str) -> Finding:
    hint = f"Set recipe.{name} to choose another value."
    return finding(
        "advice", "fitted", f"/recipe/{name}", message, hint, change=suggest(f"recipe.{name}", current, to)
    )


def _largest_expert(effective: Effective, shape: Shape, gpus: int) -> int | None:
    """The largest expert-parallel size below the recipe's that fits GPUs and experts; None if none fits."""
    experts = effective.count("model.num_moe_experts")
    fixed = shape.expert_tensor * shape.pipeline
    sizes = range(min(shape.expert - 1, experts), 0, -1)
    return next((size for size in sizes if gpus % (size * fixed) == 0 and experts % size == 0), None)


def check(effective: Effective, hardware: Hardware) -> Iterator[Finding]:
    shape = shape_of(effective)
    yield from _grids(effective, shape, hardware)
    yield from _batch(effective, shape, hardware)
    yield from _model(effective, shape)
    yield from _no_experts(effective, shape)
    yield from _groups(effective, shape)
    yield from _context(effective, shape)
    yield from _minimum(effective, hardware)


def _grids(effective: Effective, shape: Shape, hardware: Hardware) -> Iterator[Finding]:
    gpus = hardware.gpus
    if gpus % shape.dense:
        yield finding(
            "error", CODE, _given_pointer(effective),
            f"{gpus} GPUs cannot be split into groups of {shape.dense} "
            f"(TP {shape.tensor} x PP {shape.pipeline} x CP {shape.context}).",
            f"Request a multiple of {shape.dense} GPUs in resources, or lower TP, PP or CP.",
            change=_nodes(hardware, shape.dense),
        )  # fmt: skip
    elif gpus % shape.experts:
        change = None
        if (expert := _largest_expert(effective, shape, gpus)) is not None:
            change = suggest("recipe.expert_model_parallel_size", shape.expert, expert)
        yield finding(
            "error", CODE, effective.pointer("model.expert_model_parallel_size"),
            f"{gpus} GPUs cannot be split into groups of {shape.experts} "
            f"(ETP {shape.expert_tensor} x EP {shape.expert} x PP {shape.pipeline}).",
            "Lower recipe.expert_model_parallel_size, or request more GPUs.",
            change=change,
        )  # fmt: skip


def _given_pointer(effective: Effective) -> str:
    """Pointer to the parallel size that the config sets, else to the recipe."""
    names = ("pipeline", "tensor", "context")
    keys = [f"model.{name}_model_parallel_size" for name in names[:2]] + ["model.context_parallel_size"]
    given = [key for key in keys if key in effective.given]
    return effective.pointer(given[0]) if given else "/recipe"


def _nodes(hardware: Hardware, group: int) -> Suggestion:
    """Suggest the smallest number of nodes whose GPUs form complete groups."""
    nodes = group // gcd(group, hardware.gpus_per_node)
    return suggest("resources.nodes", hardware.nodes, nodes)


def _batch(effective: Effective, shape: Shape, hardware: Hardware) -> Iterator[Finding]:
    micro = effective.count("train.micro_batch_size")
    if micro > 1:
        yield finding(
            "error", CODE, effective.pointer("train.micro_batch_size"),
            f"Packed data needs a micro batch of 1, and train.micro_batch_size is {micro}.",
            "Set train.micro_batch_size=1; a pack already holds many sequences.",
            change=suggest("train.micro_batch_size", micro, 1),
        )  # fmt: skip
        return
    batch, replicas = effective.count("train.global_batch_size", 0), shape.data(hardware.gpus)
    if batch % replicas and hardware.gpus % shape.dense == 0:
        fitting = -(-batch // replicas) * replicas
        yield finding(
            "error", CODE, effective.pointer("train.global_batch_size"),
            f"train.global_batch_size {batch} is not a multiple of {replicas} data-parallel replicas.",
            f"Set a multiple of {replicas}.",
            change=suggest("train.global_batch_size", batch, fitting),
        )  # fmt: skip


def _no_experts(effective: Effective, shape: Shape) -> Iterator[Finding]:
    """Reject EP for a model without experts. Checks known models only: others name experts in many ways."""
    is_known = effective.recipe.name not in GENERIC
    if is_known and shape.expert > 1 and not effective.get("model.num_moe_experts"):
        yield finding(
            "error", CODE, effective.pointer("model.expert_model_parallel_size"),
            f"The model has no experts to spread over EP {shape.expert}.",
            "Set recipe.expert_model_parallel_size=1.",
            change=suggest("recipe.expert_model_parallel_size", shape.expert, 1),
        )  # fmt: skip


def _groups(effective: Effective, shape: Shape) -> Iterator[Finding]:
    """Check query groups: ranks split the groups or share one (megatron-core, transformer_config.py)."""
    groups, size = effective.count("model.num_query_groups", 0), shape.tensor
    if groups and groups % size and size % groups:
        yield finding(
            "error", CODE, effective.pointer("model.tensor_model_parallel_size"),
            f"{groups} query groups are neither a multiple nor a divisor of TP {size}.",
            f"Set TP to a multiple or a divisor of {groups}.",
        )  # fmt: skip


def _model(effective: Effective, shape: Shape) -> Iterator[Finding]:
    """Check that what is split is divisible, if the model's sizes are known."""
    splits = (
        (
            "model.num_attention_heads",
            "attention heads",
            shape.tensor,
            "TP",
            "model.tensor_model_parallel_size",
        ),
        ("model.mamba_num_heads", "Mamba heads", shape.tensor, "TP", "model.tensor_model_parallel_size"),
        ("model.mamba_num_groups", "Mamba groups", shape.tensor, "TP", "model.tensor_model_parallel_size"),
        ("model.num_moe_experts", "experts", shape.expert, "EP", "model.expert_model_parallel_size"),
        ("model.num_layers", "layers", shape.pipeline, "PP", "model.pipeline_model_parallel_size"),
    )
    for key, things, size, name, key_of_size in splits:
        number = effective.count(key, 0)
        if number % size == 0 or (name == "PP" and _is_uneven(effective)):
            continue
        fitting = next(one for one in range(min(size - 1, number), 0, -1) if number % one == 0)
        yield finding(
            "error", CODE, effective.pointer(key_of_size),
            f"{number} {things} cannot be split over {name} {size}.", f"Set {name} to a divisor of {number}.",
            change=suggest(key_of_size.replace("model.", "recipe.", 1), size, fitting),
        )  # fmt: skip


UNEVEN = (
    "model.pipeline_model_parallel_layout", "model.num_layers_in_first_pipeline_stage",
    "model.num_layers_in_last_pipeline_stage", "model.account_for_embedding_in_pipeline_split",
    "model.account_for_loss_in_pipeline_split",
)  # fmt: skip


def _is_uneven(effective: Effective) -> bool:
    """Whether the config or recipe assigns layers to pipeline stages explicitly."""
    return any(effective.get(key) for key in UNEVEN) or "|" in str(
        effective.get("model.hybrid_layer_pattern")
    )


def _context(effective: Effective, shape: Shape) -> Iterator[Finding]:
    if shape.context == 1:
        return
    where = effective.pointer("model.context_parallel_size")
    if not effective.get("model.calculate_per_token_loss"):
        yield finding(
            "error", CODE, where, "Context parallelism needs a loss that is computed per token.",
            "Set model.calculate_per_token_loss=true.",
            change=suggest("model.calculate_per_token_loss", False, True),
        )  # fmt: skip
    if effective.get("ddp.average_in_collective"):
        yield finding(
            "error", CODE, effective.pointer("ddp.average_in_collective"),
            "With context parallelism the loss must not be averaged in the collective.",
            "Set ddp.average_in_collective=false.",
            change=suggest("ddp.average_in_collective", True, False),
        )  # fmt: skip
    length = effective.config.seq_length
    if length % (2 * shape.context):
        yield finding(
            "error", CODE, where, f"seq_length {length} is not a multiple of 2 x CP {shape.context}.",
            "Lower recipe.context_parallel_size, or pack to another length.",
        )  # fmt: skip


def _minimum(effective: Effective, hardware: Hardware) -> Iterator[Finding]:
    model = known_model(effective.config.hf_model_path)
    if model is None or hardware.gpus >= model.min_gpus:
        return
    lora = effective.config.peft is not None
    nodes = -(-model.min_gpus // hardware.gpus_per_node)
    yield finding(
        "warning" if lora else "error", "too_few_gpus", "/hf_model_path",
        f"{model.id} needs at least {model.min_gpus} GPUs, and {hardware.gpus} are requested.",
        "Request more in resources." + ("" if lora else " LoRA (peft=lora) may need fewer."),
        change=suggest("resources.nodes", hardware.nodes, nodes),
    )  # fmt: skip
