"""The six operator strategies of NVIDIA's step: for each a case with the advice and a case without."""

from typing import Any

import pytest

from trainer.config.effective import Effective
from trainer.config.models import NANO, SUPER
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Hardware
from trainer.preflight.memory import estimate
from trainer.preflight.strategies import check

H100, H200, A100 = (
    Hardware(4, 8, "H100", 80.0), Hardware(4, 8, "H200", 141.0), Hardware(4, 8, "A100", 40.0),
)  # fmt: skip
OVERLAPPED = {"ddp": {"overlap_grad_reduce": True, "overlap_param_gather": True}}


def advice(hardware: Hardware, path: str = NANO, records: int | None = None, **values: Any) -> set[Any]:
    """Codes, fields and values of all advice."""
    effective = Effective(TrainingConfig.model_validate({"hf_model_path": path, **OVERLAPPED, **values}))
    found = list(check(effective, hardware, records=records, estimate=estimate(effective, hardware)))
    assert {one.severity for one in found} <= {"advice"}
    assert all(one.hint for one in found)
    return {(one.code, one.suggestion.field, one.suggestion.to) for one in found if one.suggestion}


def test_fewer_than_ten_thousand_records_lower_the_global_batch() -> None:
    few = ("few_records", "train.global_batch_size", 32)
    assert few in advice(H200, records=9_999)
    assert few not in advice(H200, records=10_000)
    assert few not in advice(H200)
    assert advice(H200, records=10, train={"global_batch_size": 8}) == set()


def test_lora_lowers_the_gpu_requirement() -> None:
    lora = ("use_lora", "peft", "lora")
    assert lora in advice(H200, lora={"dim": 16})
    assert lora in advice(A100)
    assert lora not in advice(H200)
    assert lora not in advice(A100, peft="lora")


PLAN = {"tensor_model_parallel_size": 8, "pipeline_model_parallel_size": 4, "expert_model_parallel_size": 8}


def test_super_starts_from_32_gpus_with_tp_8_pp_4_cp_1() -> None:
    asked = advice(Hardware(8, 8, "H200", 141.0), SUPER)
    assert ("super_plan", "recipe.pipeline_model_parallel_size", 4) in asked
    assert ("super_plan", "resources.nodes", 4) in asked
    assert {one for one in advice(H200, SUPER, recipe=PLAN) if one[0] == "super_plan"} == set()
    assert {one for one in advice(H200) if one[0] == "super_plan"} == set()


def test_above_32768_hybrid_context_parallelism() -> None:
    hybrid = ("long_sequences", "model.hybrid_context_parallel", True)
    assert hybrid in advice(H200, seq_length=65536)
    assert hybrid not in advice(H200, seq_length=32768)
    assert hybrid not in advice(H200, seq_length=65536, model={"hybrid_context_parallel": True})


def test_tight_memory_wants_activation_checkpointing_and_offloading() -> None:
    checkpointing = ("tight_memory", "model.recompute_granularity", "selective")
    offloading = ("tight_memory", "optimizer.optimizer_cpu_offload", True)
    assert {checkpointing, offloading} <= advice(A100)
    assert not {checkpointing, offloading} & advice(H200)
    done = {"model": {"recompute_granularity": "full"}, "optimizer": {"optimizer_cpu_offload": True}}
    assert not {checkpointing, offloading} & advice(A100, **done)


@pytest.mark.parametrize("key", ["overlap_grad_reduce", "overlap_param_gather"])
def test_throughput_on_h100_wants_overlap(key: str) -> None:
    off = {"ddp": {**OVERLAPPED["ddp"], key: False}}
    assert ("h100_throughput", f"ddp.{key}", True) in advice(H100, **off)
    assert {one for one in advice(H100) if one[0] == "h100_throughput"} == set()
    assert {one for one in advice(H200, **off) if one[0] == "h100_throughput"} == set()
    split = {"recipe": {"tensor_model_parallel_size": 2}}
    assert ("h100_throughput", "comm_overlap.tp_comm_overlap", True) in advice(H100, **split)
