"""The trainer's code and config in the environment of a job."""

import base64
import os
import random
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.lepton.bare import Bare, bare
from tests.support.lepton.server.server import LeptonServer
from tests.support.waiting import wait_until
from worker.backends.interface import Submission
from worker.backends.lepton import environment_bundle
from worker.errors import SubmissionRejected
from worker.runs.run import Resources, Run

UNPACK = (files("worker.backends.lepton") / "templates" / "unpack.py").read_text()


@pytest.fixture
def on(lepton: LeptonServer, tmp_path: Path) -> Bare:
    return bare(lepton, tmp_path, python=sys.executable)


def noise(size: int) -> dict[str, Any]:
    """Return a config of `size` bytes that compresses to no less than three quarters."""
    return {"note": base64.b64encode(random.Random(1).randbytes(size * 3 // 4)).decode()}


def submission(on: Bare, config: dict[str, Any]) -> Submission:
    return on.backend.render(
        Run("job-1", 1, config, Resources(nodes=1, gpus_per_node=1, time_limit_minutes=30))
    )


def packed(config: dict[str, Any]) -> dict[str, str]:
    return environment_bundle.variables(yaml.safe_dump(config))


def test_the_largest_config_arrives_in_the_container(on: Bare) -> None:
    code = sum(len(part) for part in packed({}).values())
    config = noise(environment_bundle.MAX_BYTES - code - 20_000)
    size = sum(len(value) for name, value in packed(config).items() if name.startswith("SFT_BUNDLE_"))
    assert 0.95 * environment_bundle.MAX_BYTES < size <= environment_bundle.MAX_BYTES + 100
    on.lepton.workspace.hold_queue = False
    given = submission(on, config)
    on.backend.submit(given)
    arrived = on.lepton.storage / "team" / "sft" / "jobs" / "job-1" / "attempts" / "1" / "config.yaml"
    wait_until(arrived.exists, what="the config")
    assert arrived.read_text() == given.files["config.yaml"]


def test_a_larger_config_is_rejected_with_a_hint(on: Bare) -> None:
    with pytest.raises(SubmissionRejected, match="at most 1024 KiB fit") as rejected:
        on.backend.submit(submission(on, noise(environment_bundle.MAX_BYTES)))
    assert "to a file on a mount" in (rejected.value.hint or "")
    assert on.lepton.requests == []


@pytest.mark.parametrize("damage", ["changed", "exchanged"])
def test_a_damaged_bundle_is_not_run(tmp_path: Path, damage: str) -> None:
    variables = packed(noise(200_000))
    first, second = variables["SFT_BUNDLE_0"], variables["SFT_BUNDLE_1"]
    if damage == "changed":
        variables["SFT_BUNDLE_0"] = first[:1000] + ("A" if first[1000] != "A" else "B") + first[1001:]
    else:
        variables |= {"SFT_BUNDLE_0": second, "SFT_BUNDLE_1": first}
    command = [sys.executable, "-c", UNPACK, str(tmp_path), str(tmp_path / "config.yaml"), "0"]
    ran = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "did not arrive whole" in ran.stderr
    assert list(tmp_path.iterdir()) == []
