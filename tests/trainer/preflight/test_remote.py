"""`python -m trainer.preflight.remote`, as the service runs it on a login node, on files that are bombs."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.file_bombs import hash_bomb, memo_bomb, save_with_index
from tests.support.trainer_runs import PROJECT


def inspect(directory: Path, cpu_seconds: int) -> list[dict[str, Any]]:
    """Inspect a checkpoint in a process that may take so many seconds, and return the findings."""
    config = {"hf_model_path": "org/model", "checkpoint_megatron": str(directory)}
    hardware = {"nodes": 1, "gpus_per_node": 1}
    request = {"kind": "config", "config": config, "hardware": hardware, "roots": [str(directory)]}
    done = subprocess.run(
        [sys.executable, "-m", "trainer.preflight.remote"],
        input=json.dumps(request), capture_output=True, text=True, timeout=120, cwd=PROJECT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return findings


@pytest.mark.parametrize(
    ("index", "code"), [(memo_bomb(), "hostile_checkpoint"), (hash_bomb(), "hostile_checkpoint")]
)
def test_a_bomb_is_a_finding(tmp_path: Path, index: bytes, code: str) -> None:
    found = inspect(save_with_index(tmp_path / "save", index), cpu_seconds=3)
    assert code in [one["code"] for one in found if one["pointer"] == "/checkpoint_megatron"]
