"""The service conforms to its OpenAPI document for every caller: schemathesis searches for violations."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.inputs import make_inputs
from tests.support.service import Service

# The first test also installs the programs: a long timeout.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHECKS = [
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "negative_data_rejection",
    "missing_required_header", "unsupported_method", "allow_header_conformance", "use_after_free",
    "ensure_resource_availability", "ignored_auth",
]  # fmt: skip
ROLES = ("nobody", "viewer", "submitter", "operator", "admin")


@pytest.fixture(scope="module")
def known(service: Service) -> dict[str, Any]:
    """Return values for the hooks: an ended job, and fields of a body that creates another."""
    body = make_inputs(service.data_dir)
    job = service.wait_for(service.submit(body)["id"])
    neutral = {"secrets": {}, "args": [], "resources": {}, "cluster": None, "plan_hash": None}
    return {"job_id": job["id"], "iteration": 4, "path": "metadata.json", "body": body | neutral}


@pytest.mark.parametrize("role", ROLES)
def test_the_service_conforms_to_its_document(
    service: Service, client_bin: Path, known: dict[str, Any], role: str, tmp_path: Path
) -> None:
    command = [
        str(client_bin / "schemathesis"), "run", f"{service.client.base_url}/openapi.json",
        "--checks", ",".join(CHECKS), "--max-examples", os.environ.get("SFT_TEST_EXAMPLES", "5"),
        "--continue-on-failure", "--request-timeout", "60", "--no-color", "--report", "json",
        "--report-json-path", str(tmp_path / "report.json"),
    ]  # fmt: skip
    if role != "nobody":
        key = service.client.post("/v1/keys", json={"name": "tester", "role": role}).json()["key"]
        command += ["--header", f"Authorization: Bearer {key}"]
    hooks = {
        "SCHEMATHESIS_HOOKS": "hooks",
        "PYTHONPATH": str(Path(__file__).parent),
        "KNOWN": json.dumps(known),
    }
    done = subprocess.run(
        command, env={**os.environ, **hooks}, cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
