"""Text of the client never reaches a shell of the cluster or a Slurm directive."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.hostile import wrapped_strings
from tests.support.slurm_service import SlurmService

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def canary_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("canary") / "touched"


def bodies(service: SlurmService, text: str) -> Iterator[dict[str, Any]]:
    """Yield requests with the text in one place each."""
    usual = service.body()
    yield {**usual, "name": text}
    yield {**usual, "config": text}
    yield {**usual, "config": {text: text}}
    yield {**usual, "cluster": text}
    yield {**usual, "overrides": [*usual["overrides"], text]}
    yield {**usual, "overrides": {"hf_model_path": text}}
    yield {**usual, "args": ["--hf-model-path", text]}
    yield {**usual, "inputs": {"packed_parquet": text}}
    yield {**usual, "inputs": {**usual["inputs"], "checkpoint_megatron": text}}
    yield {**usual, "secrets": {text: "team-hf"}}
    yield {**usual, "secrets": {"HF_TOKEN": text}}
    yield {**usual, "labels": {text: "x"}}
    yield {**usual, "plan_hash": text}
    yield {**usual, "resources": {"nodes": text}}


def test_five_hundred_strings_in_every_field_are_planned_or_rejected(
    on_slurm: SlurmService, canary_file: Path
) -> None:
    texts = wrapped_strings(str(canary_file))
    assert len(texts) >= 500
    usual = on_slurm.client.post("/v1/jobs:plan", json=on_slurm.body()).json()["submission"]["files"]

    def planned(body: dict[str, Any]) -> None:
        content = json.dumps(body)
        answer = on_slurm.client.post(
            "/v1/jobs:plan", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code in (200, 422), (answer.status_code, body)
        if answer.status_code == 200:
            files = answer.json()["submission"]["files"]
            assert files["node.sh"] == usual["node.sh"]
            assert set(files["job.sh"].splitlines()) <= {
                *usual["job.sh"].splitlines(), "", "set +x", '. "$submitted/secrets.sh" || exit 78'
            }  # fmt: skip

    with ThreadPoolExecutor(4) as clients:
        for text in texts:
            list(clients.map(planned, bodies(on_slurm, text)))
    assert not canary_file.exists()


def test_accepted_text_reaches_the_run_unchanged(on_slurm: SlurmService, canary_file: Path) -> None:
    """Send a hundred of them in all free text fields through Slurm to the run's config."""
    texts = [text for text in wrapped_strings(str(canary_file)) if accepted(on_slurm, text)][::4][:100]
    assert len(texts) >= 50
    jobs = {on_slurm.submit(free(on_slurm, text))["id"]: text for text in texts}
    for job_id, text in jobs.items():
        job = on_slurm.wait_for(job_id, timeout=600)
        assert (job["state"], job["labels"]["text"]) == ("SUCCEEDED", text), text
        assert job["config"]["logger"]["wandb_exp_name"] == text
        assert on_slurm.starts(job_id) == ["1"]
        shown = on_slurm.slurm.run("scontrol", "show", "job", job["backend"]["external_id"]).stdout
        assert f"JobName={job_id}.1" in shown
        assert "Partition=main" in shown
        assert "NumNodes=1" in shown
        assert f"StdOut={on_slurm.directory(job_id)}/logs/job.log" in shown
    assert not canary_file.exists()


def free(service: SlurmService, text: str) -> dict[str, Any]:
    """Return a job with the text in all free text fields."""
    usual = service.body()
    named = {"logger.wandb_exp_name": text, "logger.wandb_entity": text, "logger.wandb_project": text}
    overrides = dict(one.split("=", 1) for one in usual["overrides"]) | named
    return {**usual, "overrides": overrides, "labels": {"text": text}}


def accepted(service: SlurmService, text: str) -> bool:
    answer = service.client.post("/v1/jobs:plan", json=free(service, text))
    return bool(answer.status_code == 200 and answer.json()["ok"])
