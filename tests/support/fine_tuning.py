"""A real fine-tuning job over HTTP, and checks of its results."""

from pathlib import Path
from typing import Any

from tests.support.service import Service


def fine_tuning(inputs: Path, *overrides: str) -> dict[str, Any]:
    return {
        "name": "docstrings",
        "config": "cpu-tiny",
        "overrides": [f"hf_model_path={inputs / 'model'}", *overrides],
        "inputs": {"packed_parquet": str(inputs / "packed")},
    }


def check(service: Service, job: dict[str, Any], steps: int, *, downloads: bool = True) -> dict[str, float]:
    """Check a finished job; return its first and last losses. downloads: the service can read its files."""
    assert job["state"] == "SUCCEEDED", service.client.get(f"/v1/jobs/{job['id']}/logs?tail=50").json()
    metrics = service.client.get(f"/v1/jobs/{job['id']}/metrics").json()
    assert [point["step"] for point in metrics["train"]] == list(range(1, steps + 1))
    items = service.client.get(f"/v1/jobs/{job['id']}/checkpoints").json()["items"]
    assert items[-1]["iteration"] == steps
    url = f"/v1/jobs/{job['id']}/checkpoints/{steps}"
    for file in service.client.get(url).json()["files"] if downloads else ():
        assert len(service.client.get(f"{url}/files/{file['path']}").content) == file["bytes"]
    log = service.client.get(f"/v1/jobs/{job['id']}/logs?tail=2000").json()["text"]
    assert f"successfully saved checkpoint from iteration {steps:7d}" in log
    validation = metrics["validation"]
    return {"before": validation[0]["loss"], "after": validation[-1]["loss"]}
