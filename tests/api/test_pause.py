"""Pause, resume, and recovery after an interruption, on this machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.inputs import make_inputs
from tests.support.service import Service, is_supervisor, processes_of_runs
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Iterator[Service]:
    """Yield a service with a cluster that recovers interrupted jobs, at most twice without progress."""
    data_dir = tmp_path_factory.mktemp("pause") / "data"
    data_dir.mkdir()
    roots = f'roots = ["{data_dir}/inputs"]\nmax_running = 4\n'
    (data_dir / "clusters.toml").write_text(f"[local]\n{roots}[patient]\n{roots}max_recoveries = 2\n")
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_POLL_INTERVAL_SECONDS="0.2") as running:
        yield running


def body(service: Service, mode: str, cluster: str = "local") -> dict[str, Any]:
    return with_mode(make_inputs(service.data_dir), mode, cluster=cluster)


def request_action(service: Service, job_id: str, action: str) -> tuple[int, dict[str, Any]]:
    answer = service.client.post(f"/v1/jobs/{job_id}/{action}")
    return answer.status_code, answer.json()


def attempts(service: Service, job_id: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
    return items


def test_a_paused_job_has_saved_holds_no_resources_and_resumes(service: Service) -> None:
    job_id = service.submit(body(service, "hold"))["id"]
    service.wait_for(job_id, "RUNNING")
    status, job = request_action(service, job_id, "pause")
    assert (status, job["state"], job["desired_state"]) == (202, "PAUSING", "pause")
    assert request_action(service, job_id, "pause")[0] == 202  # a repeated request changes nothing
    paused = service.wait_for(job_id, "PAUSED")
    assert not paused["terminal"]
    assert paused["latest_checkpoint"]["iteration"] == 4
    assert processes_of_runs(service.data_dir / "jobs" / job_id) == []
    assert request_action(service, job_id, "pause")[0] == 409
    status, job = request_action(service, job_id, "resume")
    assert (status, job["state"], job["attempt"]) == (202, "SUBMITTING", 2)
    service.wait_for(job_id, "RUNNING")
    assert [(one["outcome"], one["origin"]) for one in attempts(service, job_id)] == [
        ("PAUSED", "created"),
        (None, "resumed"),
    ]
    request_action(service, job_id, "cancel")
    assert service.wait_for(job_id)["state"] == "CANCELLED"


def test_a_paused_job_can_be_cancelled(service: Service) -> None:
    job_id = service.submit(body(service, "hold"))["id"]
    service.wait_for(job_id, "RUNNING")
    request_action(service, job_id, "pause")
    service.wait_for(job_id, "PAUSED")
    request_action(service, job_id, "cancel")
    assert service.wait_for(job_id)["state"] == "CANCELLED"


def test_a_run_that_finishes_before_the_pause_request_has_succeeded(service: Service) -> None:
    job_id = service.submit(body(service, "wait"))["id"]
    service.wait_for(job_id, "RUNNING")
    request_action(service, job_id, "pause")
    (service.data_dir / "jobs" / job_id / "attempts" / "1" / "go").touch()
    assert service.wait_for(job_id)["state"] == "SUCCEEDED"


def test_only_running_jobs_pause_and_only_paused_jobs_resume(service: Service) -> None:
    job_id = service.wait_for(service.submit(body(service, "train"))["id"])["id"]
    for action in ("pause", "resume"):
        status, problem = request_action(service, job_id, action)
        assert (status, problem["code"], problem["allowed_actions"]) == (409, "illegal_action", [])


def kill_supervisor(service: Service, job_id: str, attempt: int) -> None:
    directory = service.data_dir / "jobs" / job_id / "attempts" / str(attempt)

    def supervisor() -> psutil.Process | None:
        return next((one for one in processes_of_runs(directory) if is_supervisor(one)), None)

    wait_until(supervisor, what=f"the supervisor of attempt {attempt}").kill()


def test_an_interrupted_job_recovers_up_to_the_recovery_limit(service: Service) -> None:
    job_id = service.submit(body(service, "hold", "patient"))["id"]
    for attempt in (1, 2, 3):
        wait_until(
            lambda attempt=attempt: (
                (service.job(job_id)["attempt"], service.job(job_id)["state"])  # type: ignore[misc]
                == (attempt, "RUNNING")
            ),
            what=f"attempt {attempt}",
        )
        kill_supervisor(service, job_id, attempt)
    job = service.wait_for(job_id)
    assert (job["state"], job["failure"]["class"]) == ("FAILED", "node_fail")
    assert [(one["origin"], one["failure"]["class"]) for one in attempts(service, job_id)] == [
        ("created", "node_fail"),
        ("recovered", "node_fail"),
        ("recovered", "node_fail"),
    ]
