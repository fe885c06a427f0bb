"""The operator strategies of NVIDIA's step sft/megatron_bridge, as advice: a field and its new value."""

from collections.abc import Iterator

from trainer.config.effective import Effective
from trainer.config.models import LONGEST_LISTED_TOKENS, SUPER
from trainer.preflight.finding import Finding, Suggestion, finding, suggest
from trainer.preflight.hardware import Hardware
from trainer.preflight.memory import TIGHT_SHARE, Estimate

FEW_RECORDS = 10_000
SMALL_GPU_GIB = 40


def _advice(code: str, pointer: str, message: str, hint: str, change: Suggestion) -> Finding:
    return finding("advice", code, pointer, message, hint, change=change)


def check(
    effective: Effective, hardware: Hardware, *, records: int | None, estimate: Estimate | None
) -> Iterator[Finding]:
    """Return all advice.

    records: number of training conversations, None if unknown.
    estimate: memory of one GPU, None if the model's sizes are unknown.
    """
    yield from _few_records(effective, records)
    yield from _lora(effective, hardware, estimate)
    yield from _super(effective, hardware)
    yield from _long(effective)
    yield from _tight_memory(effective, hardware, estimate)
    yield from _throughput(effective, hardware)


def _few_records(effective: Effective, records: int | None) -> Iterator[Finding]:
    batch = effective.count("train.global_batch_size", 0)
    if records is None or records >= FEW_RECORDS or batch <= 8:
        return
    yield _advice(
        "few_records", effective.pointer("train.global_batch_size"),
        f"The dataset has {records} records, fewer than {FEW_RECORDS}.",
        "Lower train.global_batch_size and raise train.train_iters to keep optimizer steps useful.",
        suggest("train.global_batch_size", batch, max(8, batch // 4)),
    )  # fmt: skip


def _lora(effective: Effective, hardware: Hardware, estimate: Estimate | None) -> Iterator[Finding]:
    """Advise LoRA if full fine-tuning hardly fits, or if lora.* is set without peft."""
    if effective.config.peft is not None:
        return
    message = "LoRA lowers the GPU requirement and shrinks the checkpoints."
    if effective.config.lora:
        message = f"lora.* has no effect while peft is null. {message}"
    if effective.config.lora or is_tight(hardware, estimate):
        yield _advice(
            "use_lora", "/lora" if effective.config.lora else "/peft", message,
            "Set peft=lora for adapter tuning.", suggest("peft", None, "lora"),
        )  # fmt: skip


SUPER_PLAN = {
    "tensor_model_parallel_size": 8,
    "pipeline_model_parallel_size": 4,
    "context_parallel_size": 1,
}
SUPER_GPUS = 32


def _super(effective: Effective, hardware: Hardware) -> Iterator[Finding]:
    if effective.config.hf_model_path != SUPER:
        return
    hint = "Start from 32 GPUs with tp=8, pp=4, cp=1, and verify the topology before scaling further."
    for name, value in SUPER_PLAN.items():
        current = effective.count(f"model.{name}")
        if current != value:
            yield _advice(
                "super_plan", effective.pointer(f"model.{name}"), f"Super is started with {name} {value}.",
                hint, suggest(f"recipe.{name}", current, value),
            )  # fmt: skip
    if hardware.gpus != SUPER_GPUS and SUPER_GPUS % hardware.gpus_per_node == 0:
        nodes = SUPER_GPUS // hardware.gpus_per_node
        yield _advice(
            "super_plan", "/hf_model_path", f"Super is started on {SUPER_GPUS} GPUs.", hint,
            suggest("resources.nodes", hardware.nodes, nodes),
        )  # fmt: skip


def _long(effective: Effective) -> Iterator[Finding]:
    length = effective.config.seq_length
    if length > LONGEST_LISTED_TOKENS and not effective.get("model.hybrid_context_parallel"):
        yield _advice(
            "long_sequences", "/seq_length", f"seq_length {length} is above {LONGEST_LISTED_TOKENS}.",
            "Enable hybrid context parallelism (with model.max_seqlen_per_dp_cp_rank).",
            suggest("model.hybrid_context_parallel", False, True),
        )  # fmt: skip


def is_tight(hardware: Hardware, estimate: Estimate | None) -> bool:
    """Whether a GPU is small, or the estimate is close to its memory."""
    memory = hardware.gpu_memory_gib
    if memory is None:
        return False
    return memory <= SMALL_GPU_GIB or (estimate is not None and estimate.total_gib > TIGHT_SHARE * memory)


def _tight_memory(effective: Effective, hardware: Hardware, estimate: Estimate | None) -> Iterator[Finding]:
    if not is_tight(hardware, estimate):
        return
    message = f"Memory is tight on {hardware.gpu_memory_gib:g} GiB."
    if not effective.get("model.recompute_granularity"):
        yield _advice(
            "tight_memory", effective.pointer("model.recompute_granularity"), message,
            "Enable activation checkpointing.", suggest("model.recompute_granularity", None, "selective"),
        )  # fmt: skip
    if not effective.get("optimizer.optimizer_cpu_offload") and effective.config.peft is None:
        yield _advice(
            "tight_memory", effective.pointer("optimizer.optimizer_cpu_offload"), message,
            "Consider CPU offloading.", suggest("optimizer.optimizer_cpu_offload", False, True),
        )  # fmt: skip


def _throughput(effective: Effective, hardware: Hardware) -> Iterator[Finding]:
    """Advise overlap of communication. Packing, the other strategy for throughput, is always on here."""
    if "H100" not in (hardware.gpu_type or "").upper():
        return
    for key in ("ddp.overlap_grad_reduce", "ddp.overlap_param_gather"):
        if not effective.get(key):
            yield _advice(
                "h100_throughput", effective.pointer(key), f"{key} is off.",
                "For the most throughput on H100, tune overlap before scaling up.", suggest(key, False, True),
            )  # fmt: skip
    if effective.count("model.tensor_model_parallel_size") > 1 and not effective.get(
        "comm_overlap.tp_comm_overlap"
    ):
        yield _advice(
            "h100_throughput", effective.pointer("comm_overlap.tp_comm_overlap"),
            "Communication of tensor parallelism is not overlapped.",
            "For the most throughput on H100, tune overlap before scaling up.",
            suggest("comm_overlap.tp_comm_overlap", False, True),
        )  # fmt: skip
