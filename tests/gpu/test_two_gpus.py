"""The losses on two GPUs are those on one GPU, however the model and its batch are split."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.gpu_runs import GpuHardware, config, finished, furthest_apart, note, rate
from tests.support.trainer_runs import Run, train

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

# bf16 has 8 bits of precision, and the order of sums differs.
NOISE = 1e-2

SPLITS: dict[str, dict[str, Any]] = {
    "tensor": {"recipe": {"tensor_model_parallel_size": 2, "sequence_parallel": True}},
    "data": {"ddp": {"use_distributed_optimizer": True}},
    "context": {"recipe": {"context_parallel_size": 2}},
}
EACH_TOKEN = {"model": {"calculate_per_token_loss": True}, "ddp": {"average_in_collective": False}}


def _run(inputs: Path, directory: Path, ranks: int, base: str = "small", **changes: Any) -> Run:
    values = config(inputs, directory, base, **EACH_TOKEN, train={"train_iters": 10})
    values["dataset"] = {"nano3_packed_sft_dir": str(inputs / "packed" / "4096-padded")}
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section}
    values["checkpoint"] = {}  # nothing is saved
    return finished(train(directory, values, ranks))


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run on one GPU."""
    return _run(inputs, tmp_path_factory.mktemp("alone") / "run", 1)


@pytest.mark.two_gpus
@pytest.mark.parametrize("split", SPLITS)
def test_the_losses_are_equal(
    inputs: Path, hardware: GpuHardware, tmp_path: Path, alone: Run, split: str
) -> None:
    run = _run(inputs, tmp_path / "run", 2, **SPLITS[split])
    assert run.of_kind("started")[0]["parameters"] == alone.of_kind("started")[0]["parameters"]
    apart = furthest_apart(alone.losses(), run.losses())
    assert apart < NOISE
    note(
        f"two-gpus-{split}", hardware, run, losses=run.losses(), losses_of_one=alone.losses(),
        furthest_apart=apart, validation=run.validation_losses(), **rate(run),
    )  # fmt: skip


@pytest.mark.two_gpus
def test_the_losses_with_split_experts_are_equal(inputs: Path, hardware: GpuHardware, tmp_path: Path) -> None:
    one = _run(inputs, tmp_path / "one", 1, "hybrid")
    two = _run(inputs, tmp_path / "two", 2, "hybrid", recipe={"expert_model_parallel_size": 2})
    apart = furthest_apart(one.losses(), two.losses())
    assert apart < NOISE
    note(
        "two-gpus-experts", hardware, two, losses=two.losses(), losses_of_one=one.losses(),
        furthest_apart=apart, **rate(two),
    )  # fmt: skip
