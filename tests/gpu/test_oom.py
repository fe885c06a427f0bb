"""A run that is too large for the GPU fails as `oom`. With the suggested change it fits."""

import os
from pathlib import Path

import pytest

from demo.gpu import LONG
from tests.support.gpu_runs import GpuHardware, config, note
from tests.support.service import Service
from tests.support.trainer_runs import PYTHON, Run

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]


def test_a_retry_with_the_suggested_change_fits(
    inputs: Path, hardware: GpuHardware, data_dir: Path, tmp_path: Path
) -> None:
    names = ("NCCL_", "TORCH_", "NVSHMEM_", "CUDA_", "HF_")
    variables = {name: value for name, value in os.environ.items() if name.startswith(names)}
    settings = ", ".join(f'{name} = "{value}"' for name, value in variables.items())
    (data_dir / "clusters.toml").write_text(
        f'[local]\nroots = ["{inputs}"]\ngpus_per_node = 1\nenv_vars = {{{settings}}}\n'
    )
    values = config(
        inputs, tmp_path, "narrow", seq_length=LONG, train={"train_iters": 3, "global_batch_size": 1},
        dataset={"nano3_packed_sft_dir": str(inputs / "packed" / str(LONG))},
        validation={"eval_interval": 3, "eval_iters": 1},
    )  # fmt: skip
    values["checkpoint"] = {"save_interval": 3}
    with Service(data_dir, SFT_TRAINER_PYTHON=str(PYTHON)) as service:
        job = service.submit({"name": "too-long", "config": values})
        failed = service.wait_for(job["id"], "FAILED", timeout=300)
        failure = failed["failure"]
        assert (failure["class"], failure["retryable"]) == ("oom", False), failure
        assert failure["suggestion"]["to"]["recompute_granularity"] == "full"
        retry = service.client.post(f"/v1/jobs/{job['id']}/retry", json={"apply_suggestion": True})
        assert retry.status_code == 202, retry.text
        job = service.wait_for(job["id"], "SUCCEEDED", timeout=400)
    attempts = data_dir / "jobs" / job["id"] / "attempts"
    run = Run(attempts / "2")
    note(
        "oom", hardware, run, failure={key: failure[key] for key in ("class", "cause", "suggestion")},
        line=failure["evidence"]["line"], losses_after=run.losses(),
        peak_memory_gib=run.of_kind("step")[-1]["peak_memory_gib"],
    )  # fmt: skip
