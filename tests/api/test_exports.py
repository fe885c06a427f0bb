"""Exports of checkpoints: ordinary jobs, except that they may read the checkpoint's path."""

import io
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.inputs import make_inputs
from tests.support.service import Service

Json = dict[str, Any]
Export = Callable[..., tuple[int, Json]]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(service: Service) -> Json:
    """Return a job with a checkpoint of iteration 4."""
    body = {**make_inputs(service.data_dir), "labels": {"team": "docs"}}
    return service.wait_for(service.submit(body)["id"])


@pytest.fixture(scope="module")
def other(service: Service) -> Path:
    """Return the checkpoint of another job."""
    return directory(service.wait_for(service.submit(make_inputs(service.data_dir))["id"]))


@pytest.fixture
def saved(source: Json) -> Iterator[Path]:
    """Yield the checkpoint of the job. A test may set there what exports do, or damage it."""
    path = directory(source)
    shutil.copytree(path, path.with_name("spare"))
    yield path
    path.unlink() if path.is_symlink() else shutil.rmtree(path)
    path.with_name("spare").rename(path)


def directory(job: Json) -> Path:
    return Path(job["config"]["checkpoint"]["save"]) / "iter_0000004"


@pytest.fixture
def export(service: Service, source: Json, saved: Path) -> Export:
    def post(body: Json | None = None, *, job: str = source["id"], iteration: int = 4, **headers: str) -> Any:
        content = {} if body is None else {"json": body}
        url = f"/v1/jobs/{job}/checkpoints/{iteration}/export"
        answer = service.client.post(url, headers=headers, **content)
        return answer.status_code, answer.json()

    return post


def act(service: Service, job: Json, action: str, **content: Any) -> tuple[int, Json]:
    answer = service.client.post(f"/v1/jobs/{job['id']}/{action}", **content)
    return answer.status_code, answer.json()


def get(service: Service, job: Json, what: str) -> Any:
    return service.client.get(f"/v1/jobs/{job['id']}/{what}").json()


def pointers(problem: Json) -> list[tuple[str, str]]:
    return [(fault["pointer"], fault["code"]) for fault in problem["errors"]]


# -- a job -----------------------------------------------------------------------------------------


def test_an_export_is_a_job_whose_checkpoint_is_a_hugging_face_directory(
    service: Service, source: Json, saved: Path, export: Export
) -> None:
    status, made = export()
    assert status == 201
    assert made["export_of"] == {"job": source["id"], "iteration": 4}
    assert (made["name"], made["labels"], made["owner"]) == ("test-export", {"team": "docs"}, "admin")
    assert {name: made["resources"][name] for name in ("nodes", "gpus_per_node")} == {
        "nodes": 1, "gpus_per_node": 1,
    }  # fmt: skip
    for name in ("device", "hf_model_path", "checkpoint_megatron", "peft"):
        assert made["config"][name] == source["config"][name]
    assert made["config"]["export"] == {"checkpoint": str(saved)}

    done = service.wait_for(made["id"])
    assert done["state"] == "SUCCEEDED", get(service, done, "logs?tail=50")
    [checkpoint] = get(service, done, "checkpoints")["items"]
    assert (checkpoint["iteration"], checkpoint["format"]) == (4, "huggingface")
    own = Path(done["config"]["checkpoint"]["save"])
    assert Path(checkpoint["path"]) == own / "hf/iter_0000004"
    assert own.is_relative_to(service.data_dir / "jobs" / done["id"])
    archive = service.client.get(f"/v1/jobs/{done['id']}/checkpoints/4/archive")
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        assert "iter_0000004/config.json" in tar.getnames()
    assert "hello" in get(service, done, "logs?rank=0")["text"]
    assert get(service, done, "events")["items"][-1]["data"]["to"] == "SUCCEEDED"


def test_the_exported_job_is_unchanged_and_has_an_event(
    service: Service, source: Json, export: Export
) -> None:
    made = export()[1]
    service.wait_for(made["id"])
    now = service.job(source["id"])
    assert {**now, "observed_at": None} == {**source, "observed_at": None}
    assert now["export_of"] is None
    assert get(service, source, "checkpoints")["items"][0]["format"] == "torch_dist"
    event = get(service, source, "events")["items"][-1]
    assert (event["type"], event["actor"]) == ("export", "admin")
    assert event["data"] == {"job": made["id"], "iteration": 4}


def test_name_labels_and_time_limit_can_be_chosen(export: Export) -> None:
    _, made = export({"name": "mine", "labels": {}, "resources": {"time_limit_minutes": 7}})
    assert (made["name"], made["labels"], made["resources"]["time_limit_minutes"]) == ("mine", {}, 7)


def test_labels_of_an_export_hold_no_secret_and_no_interpolation(export: Export) -> None:
    for value, code in (("hf_" + "a1" * 17, "secret_in_request"), ("${oc.env:HOME}", "interpolation")):
        status, answer = export({"labels": {"team": value}})
        assert (status, pointers(answer)) == (422, [("/labels/team", code)])
        assert value not in str(answer)


def test_a_repeated_key_makes_one_export(service: Service, export: Export, saved: Path) -> None:
    key = {"Idempotency-Key": f"once-{saved.parent.parent.name}"}
    first = export({}, **key)
    service.wait_for(first[1]["id"])
    (saved / "metadata.json").unlink()  # a replay does not inspect the checkpoint
    assert export(None, **key) == first
    assert export({"name": "other"}, **key)[1]["code"] == "idempotency_key_reused"


def test_an_export_belongs_to_the_project_of_its_source(service: Service, body: Json, export: Export) -> None:
    key = {"name": "anna", "role": "submitter", "project": "team"}
    secret = service.client.post("/v1/keys", json=key).json()["key"]
    headers = {"Authorization": f"Bearer {secret}"}
    theirs = service.wait_for(service.submit(body, **headers)["id"])
    status, made = export(job=theirs["id"])  # requested by an admin of another project
    assert (status, made["project"], made["owner"]) == (201, "team", "admin")
    assert service.client.get(f"/v1/jobs/{made['id']}", headers=headers).status_code == 200


# -- cancel and retry ------------------------------------------------------------------------------


def test_a_running_export_can_be_cancelled_but_not_paused(
    service: Service, export: Export, saved: Path
) -> None:
    (saved / "mode").write_text("hold")
    made = service.wait_for(export()[1]["id"], "RUNNING")
    assert made["allowed_actions"] == ["cancel"]
    status, problem = act(service, made, "pause")
    assert (status, problem["code"], problem["allowed_actions"]) == (409, "illegal_action", ["cancel"])
    act(service, made, "cancel")
    assert service.wait_for(made["id"])["state"] == "CANCELLED"


def test_a_retry_of_an_export_reads_only_its_checkpoint(
    service: Service, export: Export, saved: Path, other: Path
) -> None:
    (saved / "mode").write_text("fail")
    failed = service.wait_for(export()[1]["id"])
    assert (failed["state"], failed["failure"]["class"]) == ("FAILED", "user_code")
    for change, fault in (
        ({"overrides": [f"export.checkpoint={other}"]}, ("/overrides/0", "path_not_allowed")),
        ({"resources": {"gpus_per_node": 2}}, ("/job/spec/config/export", "not_alone")),
    ):
        status, problem = act(service, failed, "retry", json=change)
        assert (status, pointers(problem)) == (422, [fault])
    (saved / "mode").unlink()
    status, again = act(service, failed, "retry", json={"resources": {"time_limit_minutes": 9}})
    assert (status, again["attempt"], again["resources"]["time_limit_minutes"]) == (202, 2, 9)
    assert service.wait_for(failed["id"])["state"] == "SUCCEEDED"


def test_an_export_without_its_config_has_failed(service: Service, export: Export, saved: Path) -> None:
    (saved / "mode").write_text("headless")
    done = service.wait_for(export()[1]["id"])
    assert (done["state"], done["failure"]["class"]) == ("FAILED", "bad_checkpoint")


def test_a_checkpoint_replaced_by_a_link_is_not_followed(
    service: Service, export: Export, saved: Path, other: Path
) -> None:
    """Replace it between request and submission, as a running job could do."""
    (saved / "mode").write_text("fail")
    failed = service.wait_for(export()[1]["id"])
    shutil.rmtree(saved)
    saved.symlink_to(other)
    act(service, failed, "retry")
    again = service.wait_for(failed["id"])
    assert (again["state"], again["state_reason"]["code"]) == ("FAILED", "path_not_allowed")


# -- exports by a complete config -------------------------------------------------------------------


def test_a_config_may_export_only_checkpoints_under_the_roots(
    service: Service, source: Json, saved: Path
) -> None:
    """A complete config can name a checkpoint, too: the path is checked like every other path."""
    copied = service.data_dir / "inputs" / saved.parent.parent.name / saved.name
    shutil.copytree(saved, copied)
    model = source["config"]["hf_model_path"]

    def body(checkpoint: Path) -> Json:
        config = {"device": "cpu", "hf_model_path": model, "export": {"checkpoint": str(checkpoint)}}
        return {"name": "own", "config": config}

    done = service.wait_for(service.submit(body(copied))["id"])
    assert (done["state"], done["export_of"]) == ("SUCCEEDED", None)
    answer = service.client.post("/v1/jobs", json=body(saved))
    assert (answer.status_code, pointers(answer.json())) == (
        422, [("/config/export/checkpoint", "path_not_allowed")],
    )  # fmt: skip
