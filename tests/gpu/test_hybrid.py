"""A small Nemotron hybrid: Mamba, attention and experts in one model."""

from pathlib import Path

import pytest

from tests.support.gpu_runs import GpuHardware, config, finished, note, rate
from tests.support.trainer_runs import train

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


@pytest.mark.parametrize("peft", [None, "lora"])
def test_a_hybrid_learns(inputs: Path, hardware: GpuHardware, tmp_path: Path, peft: str | None) -> None:
    lr = {"lr": 2e-3 if peft else 1e-3}
    run = finished(train(tmp_path / "run", config(inputs, tmp_path, "hybrid", peft=peft, optimizer=lr)))
    losses, validation = run.losses(), run.validation_losses()
    assert losses[20] < losses[1]
    assert validation[20] < validation[0]
    note(
        f"hybrid-{peft or 'full'}", hardware, run, parameters=run.of_kind("started")[0]["parameters"],
        losses=losses, validation=validation, checkpoint_bytes=run.of_kind("checkpoint")[-1]["bytes"],
        peak_memory_gib=run.of_kind("step")[-1]["peak_memory_gib"], **rate(run),
    )  # fmt: skip
