"""The real trainer in two containers of a workspace, under torchrun."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fine_tuning import check, fine_tuning
from tests.support.lepton.service import LeptonService, new_server, start_service
from tests.support.trainer_runs import PYTHON

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Iterator[LeptonService]:
    """A service with real training runs. gloo finds its peers by the loopback interface here."""
    profile = {
        "python": str(PYTHON),
        "roots": [str(inputs)],
        "env_vars": {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        "pre_launch_commands": [],
    }
    directory = tmp_path_factory.mktemp("training")
    with new_server() as server, start_service(server, directory, PYTHON, usual=profile) as service:
        yield service


@pytest.mark.parametrize("cluster", ["mounted", pytest.param("far", marks=pytest.mark.lepton)])
def test_two_nodes_reduce_the_loss(training: LeptonService, inputs: Path, cluster: str) -> None:
    body = fine_tuning(inputs, "train.train_iters=6", "validation.eval_iters=1")
    job = training.submit({**body, "cluster": cluster, "resources": {"nodes": 2, "gpus_per_node": 1}})
    job = training.wait_for(job["id"], timeout=600)
    loss = check(training, job, steps=6, downloads=cluster == "mounted")
    assert loss["after"] < loss["before"]


@pytest.mark.lepton
def test_a_pause_on_two_nodes_is_resumed_where_it_stopped(training: LeptonService, inputs: Path) -> None:
    body = fine_tuning(
        inputs, "train.train_iters=2000", "validation.eval_iters=1", "checkpoint.save_interval=1000"
    )
    resources = {"nodes": 2, "gpus_per_node": 1}
    job_id = training.submit({**body, "cluster": "mounted", "resources": resources})["id"]
    training.wait_for_step(job_id, 2, timeout=300)
    training.ask(job_id, "pause")
    saved = training.wait_for(job_id, "PAUSED", timeout=300)["latest_checkpoint"]["iteration"]
    training.ask(job_id, "resume")
    again = training.wait_for_step(job_id, saved + 1, attempt=2, timeout=300)
    assert again["progress"]["step"] > saved
    steps = training.client.get(f"/v1/jobs/{job_id}/metrics?resolution=10000").json()["train"]
    assert [one["step"] for one in steps[: saved + 1]] == list(range(1, saved + 2))
    training.ask(job_id, "cancel")
    training.wait_for(job_id)
