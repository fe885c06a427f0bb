"""A Llama of a billion parameters: full fine-tuning and LoRA, in bf16 with Transformer Engine."""

import os
from pathlib import Path

import pytest

from tests.support.gpu_runs import RESUMED, GpuHardware, config, finished, furthest_apart, note, rate
from tests.support.trainer_runs import check_log_lines, train

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]


def test_full_fine_tuning(inputs: Path, hardware: GpuHardware, tmp_path: Path) -> None:
    run = finished(train(tmp_path / "run", config(inputs, tmp_path, "dense")))
    losses, validation = run.losses(), run.validation_losses()
    assert losses[20] < 0.9 * losses[1]
    assert validation[20] < validation[10] < validation[0]
    check_log_lines(run)
    saved = run.of_kind("checkpoint")[-1]
    # Transformer Engine's fused layers contain their norm.
    assert b"linear_qkv.layer_norm_weight" in (Path(saved["path"]) / ".metadata").read_bytes()
    note(
        "dense", hardware, run, parameters=run.of_kind("started")[0]["parameters"], losses=losses,
        validation=validation, checkpoint_bytes=saved["bytes"],
        peak_memory_gib=run.of_kind("step")[-1]["peak_memory_gib"], **rate(run),
    )  # fmt: skip


def test_lora_is_saved_and_resumed(inputs: Path, hardware: GpuHardware, tmp_path: Path) -> None:
    shorter = {"train": {"train_iters": 10}, "validation": {"eval_interval": 10, "eval_iters": 1}}
    lora = config(
        inputs, tmp_path, "dense", peft="lora", lora={"dim": 8, "alpha": 16}, optimizer={"lr": 2e-3},
        checkpoint={"save_interval": 5}, **shorter,
    )  # fmt: skip
    complete = finished(train(tmp_path / "complete", lora))
    assert complete.losses()[10] < complete.losses()[1]
    saved = complete.of_kind("checkpoint")[-1]
    assert saved["bytes"] < 200e6  # the adapter alone
    os.truncate(tmp_path / "checkpoints/iter_0000010/__0_0.distcp", 1000)
    resumed = finished(train(tmp_path / "resumed", lora))
    assert resumed.of_kind("started")[0]["start_step"] == 5
    apart = furthest_apart({step: complete.losses()[step] for step in range(6, 11)}, resumed.losses())
    assert apart < RESUMED
    note(
        "lora", hardware, complete, losses=complete.losses(), losses_resumed=resumed.losses(),
        furthest_apart=apart, checkpoint_bytes=saved["bytes"],
        peak_memory_gib=complete.of_kind("step")[-1]["peak_memory_gib"], **rate(complete),
    )  # fmt: skip
