"""openapi-python-client generates a client from our document; the client submits, waits, reads, downloads."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

# The first test also installs the programs: a long timeout.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def generated(service: Service, client_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the package `sft_client`."""
    directory = tmp_path_factory.mktemp("generated")
    (directory / "openapi.json").write_text(service.client.get("/openapi.json").text)
    command = [
        str(client_bin / "openapi-python-client"), "generate", "--meta", "none", "--fail-on-warning",
        "--path", str(directory / "openapi.json"), "--output-path", str(directory / "sft_client"),
    ]  # fmt: skip
    # The generator formats its code with ruff from PATH.
    environment = {**os.environ, "PATH": f"{client_bin}:{os.environ['PATH']}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_a_generated_client_submits_waits_reads_and_downloads(
    service: Service, client_bin: Path, generated: Path, body: dict[str, Any]
) -> None:
    (generated / "body.json").write_text(json.dumps(body))
    key = (service.data_dir / "admin.key").read_text().strip()
    done = subprocess.run(
        [str(client_bin / "python"), str(Path(__file__).with_name("drive.py")),
         str(service.client.base_url), key, str(generated / "body.json")],
        env={**os.environ, "PYTHONPATH": str(generated)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saw = json.loads(done.stdout)
    assert (saw["plan_ok"], saw["state"], saw["listed"]) == (True, "SUCCEEDED", True)
    assert "größe" in saw["log"]
    assert sum(saw["files"].values()) == saw["bytes"] > 0
    assert saw["missing"] == "not_found"
