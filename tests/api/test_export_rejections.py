"""Rejections of export requests and their pointers. Nothing runs here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.torch_files import BACKEND, RUN_CONFIG, index, plain
from worker.clock import utcnow
from worker.db.models import Checkpoint, Job
from worker.db.session import writing
from worker.jobs import queries

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

Json = dict[str, Any]
Export = Callable[..., tuple[int, Json]]

CONTENTS = {
    ".metadata": index({"weights": ("__0_0.distcp", 0, 7)}), "metadata.json": BACKEND,
    "__0_0.distcp": b"weights", "run_config.yaml": RUN_CONFIG, "train_state.pt": plain({}),
}  # fmt: skip


@pytest.fixture
def job(client: TestClient, good: Json) -> Job:
    return queries.get(client.post("/v1/jobs", json=good).json()["id"])


@pytest.fixture
def saved(job: Job) -> Path:
    """Return the directory of the job's checkpoint of iteration 4."""
    return save(job, 4)


def save(job: Job, iteration: int, **columns: str) -> Path:
    path = Path(job.config["checkpoint"]["save"]) / f"iter_{iteration:07d}"
    path.mkdir(parents=True)
    for name, content in CONTENTS.items():
        (path / name).write_bytes(content)
    files = [{"path": name, "bytes": len(content)} for name, content in CONTENTS.items()]
    facts = {"path": str(path), "bytes": 1, "files": files, "saved_at": utcnow(), **columns}
    with writing() as session:
        session.add(Checkpoint(job_id=job.id, iteration=iteration, attempt=1, **facts))
    return path


@pytest.fixture
def export(client: TestClient, job: Job, saved: Path) -> Export:
    def post(body: Any = None, iteration: int = 4, job_id: str = job.id) -> tuple[int, Json]:
        content = {} if body is None else {"json": body}
        answer = client.post(f"/v1/jobs/{job_id}/checkpoints/{iteration}/export", **content)
        return answer.status_code, answer.json()

    return post


def pointers(problem: Json) -> list[tuple[str, str]]:
    return [(fault["pointer"], fault["code"]) for fault in problem["errors"]]


def test_a_complete_checkpoint_is_exported(client: TestClient, job: Job, export: Export) -> None:
    status, made = export()
    assert (status, made["export_of"]) == (201, {"job": job.id, "iteration": 4})
    answer = client.post(
        f"/v1/jobs/{job.id}/checkpoints/4/export", json={"name": "mine", "labels": {"a": "b"}}
    )
    assert answer.headers["Location"] == f"/v1/jobs/{answer.json()['id']}"
    assert (answer.json()["name"], answer.json()["labels"]) == ("mine", {"a": "b"})


def test_an_unknown_resource_is_404(export: Export) -> None:
    assert export(iteration=5)[0] == 404
    assert export(job_id="job-none")[0] == 404


def test_an_export_is_not_exported_again(job: Job, export: Export) -> None:
    save(job, 5, format="huggingface")
    status, problem = export(iteration=5)
    assert (status, problem["code"]) == (409, "not_exportable")
    assert f"{job.id}/checkpoints/5/archive" in problem["hint"]


@pytest.mark.parametrize("harm", ["gone", "shorter", "link", "linked directory", "never complete"])
def test_an_incomplete_checkpoint_is_409(export: Export, saved: Path, tmp_path: Path, harm: str) -> None:
    file = saved / "__0_0.distcp"
    if harm == "shorter":
        file.write_bytes(b"w")
    elif harm == "linked directory":
        saved.rename(tmp_path / "moved")
        saved.symlink_to(tmp_path / "moved")
    else:
        file.rename(tmp_path / "moved")
    if harm == "link":
        file.symlink_to(tmp_path / "moved")
    status, problem = export()
    assert (status, problem["code"]) == (409, "checkpoint_changed")
    assert "another" in problem["hint"]


def test_a_checkpoint_without_files_that_were_never_reported_is_409(job: Job, export: Export) -> None:
    path = save(job, 5)
    with writing() as session:
        row = session.get_one(Checkpoint, (job.id, 5))
        row.files = [file for file in row.files if file["path"] != ".metadata"]
    (path / ".metadata").unlink()
    status, problem = export(iteration=5)
    assert (status, problem["code"]) == (409, "checkpoint_changed")
    assert "not a complete checkpoint" in problem["detail"]


@pytest.mark.parametrize(
    ("request_body", "pointer"),
    [
        ({"nmae": "x"}, "/nmae"),
        ({"name": "A B"}, "/name"),
        ({"labels": {"team": 1}}, "/labels/team"),
        ({"labels": {"team": "a\nb"}}, "/labels/team"),
        ({"resources": {"nodes": 2}}, "/resources/nodes"),
        ({"resources": {"time_limit_minutes": 1_000_000}}, "/resources/time_limit_minutes"),
    ],
)
def test_a_wrong_body_is_pointed_at(export: Export, request_body: Json, pointer: str) -> None:
    status, problem = export(request_body)
    assert (status, [pointer for pointer, _ in pointers(problem)]) == (422, [pointer])


def test_a_missing_base_model_is_reported_as_the_jobs_own(data_dir: Path, export: Export) -> None:
    (data_dir / "inputs/model/config.json").unlink()
    status, problem = export()
    assert (status, pointers(problem)) == (422, [("/job/config/hf_model_path", "bad_checkpoint")])
