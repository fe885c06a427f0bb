"""The API and the worker open no file that a client has named: child processes do."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.checkpoint_files import save
from trainer.preflight.remote import ConfigRequest
from worker.backends.connect import connect
from worker.clusters.registry import cluster
from worker.jobs import queries, retry
from worker.planning.plan import parse_config

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

# An audit hook cannot be removed: it appends to what is set here.
_watched: list[tuple[Path, list[str]]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        for directory, opened in _watched:
            if isinstance(arguments[0], str | Path) and Path(arguments[0]).is_relative_to(directory):
                opened.append(str(arguments[0]))


@contextmanager
def opened_below(directory: Path) -> Iterator[list[str]]:
    """Yield the files that this process opens below a directory."""
    if not _watched:
        sys.addaudithook(_hook)
    opened: list[str] = []
    _watched.append((directory, opened))
    yield opened
    _watched[-1] = (Path("/nowhere"), [])


def test_no_file_of_a_client_is_opened(client: TestClient, good: dict[str, Any], data_dir: Path) -> None:
    inputs = data_dir / "inputs"
    save(inputs / "save", 3)
    (inputs / "model" / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')
    body = {**good, "inputs": {**good["inputs"], "checkpoint_megatron": str(inputs / "save")}}
    data = {"path": good["inputs"]["packed_parquet"], "hf_model_path": str(inputs / "model")}
    with opened_below(inputs) as opened:
        assert client.post("/v1/jobs:plan", json=body).json()["ok"]
        assert client.post("/v1/datasets:inspect", json=data).json()["ok"]
        job = queries.get(client.post("/v1/jobs", json=body).json()["id"])
        profile = cluster(job.cluster)
        request = ConfigRequest(
            config=parse_config(job.config),
            hardware=profile.hardware(queries.run_of(job).resources),
            roots=[data_dir],
        )
        seen = connect(profile).inspect(request)
        assert seen is not None
        assert not [one for one in seen.findings if one.severity == "error"]
        retry.suggestion(job, "host_oom")
        assert opened == []
        (inputs / "model" / "config.json").read_text()
        assert opened != []  # the hook works


def test_a_forbidden_model_is_named_before_its_keys(client: TestClient, good: dict[str, Any]) -> None:
    outside = ["hf_model_path=/etc", "model.mamba_num_headz=8"]
    answer = client.post("/v1/jobs:plan", json={**good, "overrides": outside})
    assert answer.status_code == 422
    found = [(one["pointer"], one["code"]) for one in answer.json()["errors"]]
    assert found == [("/overrides/0", "path_not_allowed"), ("/overrides/1", "unknown_key")]
