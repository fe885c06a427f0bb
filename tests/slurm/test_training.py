"""The real trainer on two nodes of a real Slurm, under torchrun."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.slurm.cluster import DemoSlurm
from tests.support.fine_tuning import check, fine_tuning
from tests.support.slurm_service import SlurmService, start_service
from tests.support.trainer_runs import PYTHON

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def training(
    slurm: DemoSlurm, tmp_path_factory: pytest.TempPathFactory, inputs: Path, secret_file: Path
) -> Iterator[SlurmService]:
    """A service with real training runs. gloo finds its peers by the loopback interface here."""
    directory = tmp_path_factory.mktemp("training")
    profile = {
        "python": str(PYTHON),
        "roots": [str(inputs)],
        "mem": "12G",
        "env_vars": {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
    }
    with start_service(slurm, directory, PYTHON, secret_file, usual=profile) as service:
        yield service


def test_two_nodes_reduce_the_loss(training: SlurmService, inputs: Path) -> None:
    body = fine_tuning(inputs, "train.train_iters=6", "validation.eval_iters=1")
    job = training.submit({**body, "cluster": "near", "resources": {"nodes": 2, "gpus_per_node": 1}})
    loss = check(training, training.wait_for(job["id"], timeout=600), steps=6)
    assert loss["after"] < loss["before"]
    started = next(
        one
        for one in training.client.get(f"/v1/jobs/{job['id']}/events").json()["items"]
        if one["type"] == "trainer.started"
    )
    assert started["data"]["total_steps"] == 6
    assert (training.directory(job["id"]) / "logs" / "rank-1.log").stat().st_size > 0


@pytest.mark.slurm
def test_a_pause_on_two_nodes_is_resumed_where_it_stopped(training: SlurmService, inputs: Path) -> None:
    body = fine_tuning(
        inputs, "train.train_iters=2000", "validation.eval_iters=1", "checkpoint.save_interval=1000"
    )
    resources = {"nodes": 2, "gpus_per_node": 1}
    job_id = training.submit({**body, "cluster": "near", "resources": resources})["id"]
    training.wait_for_step(job_id, 2, timeout=300)
    training.ask(job_id, "pause")
    paused = training.wait_for(job_id, "PAUSED", timeout=300)
    saved = paused["latest_checkpoint"]["iteration"]
    assert saved >= 2
    training.ask(job_id, "resume")
    again = training.wait_for_step(job_id, saved + 1, attempt=2, timeout=300)
    assert again["progress"]["step"] > saved
    first = training.client.get(f"/v1/jobs/{job_id}/metrics?resolution=10000").json()["train"]
    assert [one["step"] for one in first[: saved + 1]] == list(range(1, saved + 2))
    training.ask(job_id, "cancel")
    training.wait_for(job_id)
