"""Plans and jobs that begin from a hostile checkpoint or model are rejected at the field that names it."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.checkpoint_files import save
from tests.support.torch_files import Calls, plain

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

Json = dict[str, Any]


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def attack(canary: Path) -> Calls:
    return Calls(os.system, f"touch {canary}")


@pytest.fixture
def base(data_dir: Path) -> Path:
    save(data_dir / "inputs/base", 1)
    return data_dir / "inputs/base"


def rejected(client: TestClient, body: Json) -> Json:
    """The only error of a plan, and of the job that it would be."""
    checks = client.post("/v1/jobs:plan", json=body).json()["checks"]
    [found] = [one for one in checks if one["severity"] == "error"]
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert (error["code"], error["pointer"]) == (found["code"], found["pointer"])
    assert error["detail"] == found["message"]
    assert error["hint"]
    return dict(error)


def test_a_checkpoint_to_begin_from(
    client: TestClient, good: Json, base: Path, attack: Calls, canary: Path
) -> None:
    body = {**good, "inputs": {**good["inputs"], "checkpoint_megatron": str(base)}}
    assert client.post("/v1/jobs:plan", json=body).json()["ok"]
    for name, content in {
        ".metadata": pickle.dumps(attack), "train_state.pt": plain(attack), "common.pt": pickle.dumps(attack),
        "run_config.yaml": f"model: {{_target_: torch.os.system, _args_: ['touch {canary}']}}".encode(),
    }.items():  # fmt: skip
        path = base / "iter_0000001" / name
        before = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        error = rejected(client, body)
        assert (error["code"], error["pointer"]) == ("hostile_checkpoint", "/inputs/checkpoint_megatron")
        assert f"iter_0000001/{name}" in error["detail"]
        assert "system" in error["detail"]
        path.unlink() if before is None else path.write_bytes(before)
    assert not canary.exists()


def test_a_checkpoint_to_load(
    client: TestClient, good: Json, base: Path, attack: Calls, canary: Path
) -> None:
    body = {**good, "overrides": [*good["overrides"], f"checkpoint.load={base}"]}
    (base / "latest_train_state.pt").write_bytes(plain(attack))
    error = rejected(client, body)
    assert error["code"] == "hostile_checkpoint"
    assert error["pointer"] == f"/overrides/{len(good['overrides'])}"
    assert not canary.exists()


def test_a_model(client: TestClient, good: Json, data_dir: Path, attack: Calls, canary: Path) -> None:
    (data_dir / "inputs/model/pytorch_model.bin").write_bytes(pickle.dumps(attack))
    error = rejected(client, good)
    assert (error["code"], error["pointer"]) == ("hostile_checkpoint", "/overrides/0")
    assert "'pytorch_model.bin' names 'posix.system'" in error["detail"]
    assert not canary.exists()
