"""One GPU per pytest process, and inputs that all processes share. Without a GPU the tests are skipped."""

import json
import os
from pathlib import Path

import pytest

from tests.support.gpu_runs import GpuHardware
from tests.support.trainer_runs import PYTHON, locked, trainer_python

ASK = """
import importlib.metadata as m, json, torch
from transformer_engine.pytorch import Linear
names = "torch transformer_engine megatron-bridge megatron-core transformers mamba-ssm causal-conv1d".split()
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
found = {name: version(name) for name in names}
print(json.dumps({
    "gpus": torch.cuda.device_count(), "name": torch.cuda.get_device_name(0),
    "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1),
    "versions": {"cuda": torch.version.cuda, **{name: version for name, version in found.items() if version}},
}))
"""


@pytest.fixture(scope="session")
def hardware() -> GpuHardware:
    if not PYTHON.exists():
        pytest.skip(f"there is no {PYTHON}: name the trainer's environment with SFT_TRAINER_PYTHON")
    done = trainer_python("-c", ASK)
    if done.returncode:
        pytest.skip(f"no GPU with Transformer Engine: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return GpuHardware(**json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(autouse=True)
def one_gpu(request: pytest.FixtureRequest, hardware: GpuHardware, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each process of pytest-xdist one GPU. A test that needs two GPUs runs alone."""
    needed = 2 if request.node.get_closest_marker("two_gpus") else 1
    if hardware.gpus < needed:
        pytest.skip(f"needs {needed} GPUs")
    if needed == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(number) for number in range(hardware.gpus)]
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices[worker % len(devices)])


@pytest.fixture(scope="session")
def inputs(hardware: GpuHardware, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and packed data from demo/gpu.py. SFT_TEST_GPU_INPUTS keeps them for later test runs."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen") else base
    directory = Path(os.environ.get("SFT_TEST_GPU_INPUTS", shared / "gpu-inputs"))
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / "lock"):
        done = trainer_python("-m", "demo.gpu", str(directory))
    assert done.returncode == 0, done.stderr[-3000:]
    return directory
