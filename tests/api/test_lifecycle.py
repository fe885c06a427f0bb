"""The lifecycle of a job over HTTP, with the real queue, database and backend."""

import threading
from typing import Any

import psutil
import pytest

from tests.support.process import forget_settings
from tests.support.service import Service, is_supervisor, processes_of_runs
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until
from worker.auth.roles import Caller, Role
from worker.jobs import create
from worker.planning.spec import JobSpec

pytestmark = pytest.mark.slow


def holding(body: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the body of a job that runs until it is stopped."""
    return with_mode(body, "hold", **more)


def test_a_job_goes_from_body_to_checkpoint(service: Service, body: dict[str, Any]) -> None:
    created = service.submit(body)
    assert created["state"] == "VALIDATING"
    job = service.wait_for(created["id"])
    assert job["state"] == "SUCCEEDED"
    assert job["terminal"] is True
    assert job["progress"]["step"] == job["progress"]["total_steps"] == 4
    assert job["latest_checkpoint"]["iteration"] == job["best_checkpoint"]["iteration"] == 4
    assert job["best_checkpoint"]["validation_loss"] == 4.0
    assert job["backend"]["external_id"] == f"{job['id']}.1"


def test_every_change_is_an_event_with_its_actor(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit(body)["id"])
    events = service.client.get(f"/v1/jobs/{job['id']}/events").json()["items"]
    assert events[0]["type"] == "created"
    assert events[0]["actor"] == "admin"
    path = [event["data"]["to"] for event in events if event["type"] == "state"]
    assert path == ["SUBMITTING", "QUEUED", "STARTING", "RUNNING", "FINALIZING", "SUCCEEDED"] or (
        # A run of milliseconds may have ended at the first poll.
        path[-1] == "SUCCEEDED" and path[0] == "SUBMITTING"
    )
    checkpoints = [event for event in events if event["type"] == "checkpoint"]
    assert [event["actor"] for event in checkpoints] == ["trainer"]


def test_events_are_paged_by_id(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit(body)["id"])
    url = f"/v1/jobs/{job['id']}/events"
    complete = service.client.get(url).json()["items"]
    after, pieces = 0, []
    while page := service.client.get(url, params={"after": after, "limit": 2}).json()["items"]:
        pieces += page
        after = page[-1]["id"]
    assert pieces == complete


def test_metrics_have_steps_and_validations(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit(body)["id"])
    metrics = service.client.get(f"/v1/jobs/{job['id']}/metrics").json()
    assert [(point["step"], point["loss"]) for point in metrics["train"]] == [(1, 7), (2, 6), (3, 5), (4, 4)]
    assert [(point["step"], point["loss"]) for point in metrics["validation"]] == [(0, 8), (4, 4)]
    thinned = service.client.get(f"/v1/jobs/{job['id']}/metrics", params={"resolution": 2, "from_step": 2})
    assert [point["step"] for point in thinned.json()["train"]] == [2, 4]


def test_a_failed_job_names_its_failure_and_can_be_retried(service: Service, body: dict[str, Any]) -> None:
    job = service.submit(with_mode(body, "fail"))
    job = service.wait_for(job["id"])
    assert job["state"] == "FAILED"
    assert job["failure"]["class"] == "user_code"
    assert "failure requested" in job["failure"]["cause"]
    assert job["failure"]["evidence"]["rank"] == 0
    assert job["allowed_actions"] == ["retry"]

    retried = service.client.post(f"/v1/jobs/{job['id']}/retry")
    assert retried.status_code == 202
    assert retried.json()["attempt"] == 2
    job = service.wait_for(job["id"])
    assert job["state"] == "FAILED"
    attempts = service.client.get(f"/v1/jobs/{job['id']}/attempts").json()["items"]
    assert [(a["number"], a["external_id"], a["outcome"]) for a in attempts] == [
        (1, f"{job['id']}.1", "FAILED"),
        (2, f"{job['id']}.2", "FAILED"),
    ]


@pytest.mark.parametrize(("mode", "failure"), [("die", "unknown"), ("incomplete", "bad_checkpoint")])
def test_success_requires_a_finished_event_and_a_complete_checkpoint(
    service: Service, body: dict[str, Any], mode: str, failure: str
) -> None:
    job = service.submit(with_mode(body, mode))
    job = service.wait_for(job["id"])
    assert (job["state"], job["failure"]["class"]) == ("FAILED", failure)


def test_cancel_leaves_no_rank_behind(service: Service, body: dict[str, Any]) -> None:
    job = service.submit(holding(body, resources={"gpus_per_node": 4}))
    service.wait_for(job["id"], "RUNNING")
    wait_until(lambda: len(_processes(service, job)) >= 6, what="supervisor, launcher, four ranks")
    answer = service.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "CANCELLING")
    job = service.wait_for(job["id"])
    assert job["state"] == "CANCELLED"
    assert _processes(service, job) == []


def _processes(service: Service, job: dict[str, Any]) -> list[psutil.Process]:
    return processes_of_runs(service.data_dir / "jobs" / job["id"])


def test_a_repeated_cancellation_request_changes_nothing_and_later_is_a_conflict(
    service: Service, body: dict[str, Any]
) -> None:
    job = service.submit(holding(body))
    with service.suspended("beat", "worker"):  # so that no poll observes the end between the two requests
        first = service.client.post(f"/v1/jobs/{job['id']}/cancel")
        second = service.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (first.status_code, second.status_code) == (202, 202)
    service.wait_for(job["id"], "CANCELLED")
    late = service.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert late.status_code == 409
    assert late.json()["code"] == "illegal_action"
    assert late.json()["allowed_actions"] == ["retry"]


def test_runs_beyond_the_limit_are_queued_with_a_reason(service: Service, body: dict[str, Any]) -> None:
    first = service.submit(holding(body, cluster="narrow"))
    service.wait_for(first["id"], "RUNNING")
    second = service.submit(holding(body, cluster="narrow"))
    queued = wait_until(
        lambda: (job := service.job(second["id"]))["state"] == "QUEUED" and job["queue"]["reason"] and job
    )
    assert "one of 1 slots" in queued["queue"]["reason"]
    # A job cancelled while queued never starts.
    service.client.post(f"/v1/jobs/{second['id']}/cancel")
    job = service.wait_for(second["id"])
    assert (job["state"], job["started_at"]) == ("CANCELLED", None)
    service.client.post(f"/v1/jobs/{first['id']}/cancel")
    service.wait_for(first["id"])


def test_the_ranks_of_a_killed_supervisor_end(service: Service, body: dict[str, Any]) -> None:
    job = service.submit(holding(body))
    service.wait_for(job["id"], "RUNNING")
    [supervisor] = [process for process in _processes(service, job) if is_supervisor(process)]
    supervisor.kill()
    job = service.wait_for(job["id"])
    assert job["state"] == "FAILED"
    assert "supervisor was killed" in job["failure"]["cause"]
    assert _processes(service, job) == []


def test_the_sweep_recovers_a_job_whose_message_was_lost(
    service: Service, body: dict[str, Any], environment: pytest.MonkeyPatch
) -> None:
    # If the API dies between commit and message, only the row exists.
    environment.setenv("SFT_DATA_DIR", str(service.data_dir))
    forget_settings()
    caller = Caller(name="admin", project="default", role=Role.ADMIN)
    made = create.create(JobSpec(**body), caller)
    assert service.wait_for(made.job_id)["state"] == "SUCCEEDED"


# -- idempotency -----------------------------------------------------------------------------------


def test_a_repeated_key_replays_the_first_response(service: Service, body: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "same-thing"}
    first = service.client.post("/v1/jobs", json=body, headers=key)
    service.wait_for(first.json()["id"])
    second = service.client.post("/v1/jobs", json=body, headers=key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json() == first.json()
    assert first.headers["Idempotency-Replayed"] == "false"
    assert second.headers["Idempotency-Replayed"] == "true"
    other = service.client.post("/v1/jobs", json={**body, "name": "other"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_concurrent_equal_requests_create_one_job(service: Service, body: dict[str, Any]) -> None:
    answers: list[Any] = []

    def post() -> None:
        answers.append(service.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "at-once"}))

    threads = [threading.Thread(target=post) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1


# -- reading ---------------------------------------------------------------------------------------


def test_an_etag_holds_until_the_job_changes(service: Service, body: dict[str, Any]) -> None:
    job = service.submit(holding(body))
    service.wait_for(job["id"], "RUNNING")
    # The last step of a run in mode hold: nothing changes afterwards.
    wait_until(lambda: service.job(job["id"])["progress"]["step"] == 4)
    tag = service.client.get(f"/v1/jobs/{job['id']}").headers["etag"]
    unchanged = service.client.get(f"/v1/jobs/{job['id']}", headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")

    waited: list[Any] = []
    waiter = threading.Thread(
        target=lambda: waited.append(
            service.client.get(
                f"/v1/jobs/{job['id']}", params={"wait": "20s"}, headers={"If-None-Match": tag}
            )
        )
    )
    waiter.start()
    service.client.post(f"/v1/jobs/{job['id']}/cancel")
    waiter.join()
    assert waited[0].status_code == 200
    assert waited[0].json()["state"] in ("CANCELLING", "CANCELLED")
    assert waited[0].headers["etag"] != tag
    service.wait_for(job["id"])


def test_a_wait_without_a_change_ends_with_304(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit(body)["id"])
    tag = service.client.get(f"/v1/jobs/{job['id']}").headers["etag"]
    answer = service.client.get(f"/v1/jobs/{job['id']}?wait=1s", headers={"If-None-Match": tag})
    assert answer.status_code == 304


def test_jobs_are_listed_newest_first_in_stable_pages(service: Service, body: dict[str, Any]) -> None:
    made = [service.submit({**body, "labels": {"page": "one"}})["id"] for _ in range(5)]
    query: dict[str, Any] = {"labels[page]": "one", "limit": 2}
    found: list[str] = []
    while True:
        page = service.client.get("/v1/jobs", params=query).json()
        found += [job["id"] for job in page["items"]]
        if len(found) == 2:
            service.submit({**body, "labels": {"page": "one"}})  # a newer job does not shift the pages
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert found == made[::-1]


def test_jobs_are_found_by_state_owner_cluster_and_label(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit({**body, "labels": {"team": "find-me", "x/y.z": "1"}})["id"])

    def found(**query: Any) -> bool:
        items = service.client.get("/v1/jobs", params={"limit": 200, **query}).json()["items"]
        return job["id"] in [item["id"] for item in items]

    assert found(**{"labels[team]": "find-me", "state": "SUCCEEDED", "owner": "admin", "cluster": "local"})
    assert found(**{"labels[x/y.z]": "1"})
    assert not found(**{"labels[team]": "other"})
    assert not found(state="FAILED")
    assert not found(owner="nobody")
    assert not found(cluster="narrow")
    assert not found(created_before=job["created_at"])
    assert found(created_after=job["created_at"])


# -- logs and files --------------------------------------------------------------------------------


def test_a_log_is_read_by_offset_completely(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit(body)["id"])
    raw = (service.data_dir / "jobs" / job["id"] / "attempts" / "1" / "logs" / "job.log").read_bytes()
    url = f"/v1/jobs/{job['id']}/logs"
    offset, text = 0, ""
    while True:
        page = service.client.get(url, params={"offset": offset, "limit": 7}).json()
        text += page["text"]
        assert page["next_offset"] > offset or page["end"]
        offset = page["next_offset"]
        if page["end"]:
            break
    assert text == raw.decode(errors="replace")  # no character is split, and the invalid byte loses no text
    assert "größe: ééé" in text
    assert "bad byte \ufffd here" in text
    tail = service.client.get(url, params={"tail": 2}).json()
    assert tail["text"] == "".join(raw.decode(errors="replace").splitlines(keepends=True)[-2:])
    assert tail["end"] is True
    beyond = service.client.get(url, params={"offset": len(raw) + 1})
    assert (beyond.status_code, beyond.json()["code"]) == (416, "range_invalid")


def test_each_rank_has_its_own_log(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit({**body, "resources": {"gpus_per_node": 2}})["id"])
    url = f"/v1/jobs/{job['id']}/logs"
    assert service.client.get(url, params={"rank": 1}).json()["text"] == "rank 1 says hello\n"
    assert service.client.get(url, params={"rank": 9}).status_code == 404
    assert service.client.get(url, params={"attempt": 2}).status_code == 404


def test_checkpoints_are_listed_and_downloaded(service: Service, body: dict[str, Any]) -> None:
    job = service.wait_for(service.submit(body)["id"])
    url = f"/v1/jobs/{job['id']}/checkpoints"
    [item] = service.client.get(url).json()["items"]
    assert (item["iteration"], item["complete"], item["validation_loss"]) == (4, True, 4.0)
    detail = service.client.get(f"{url}/4").json()
    assert sum(file["bytes"] for file in detail["files"]) == detail["bytes"] == item["bytes"]
    complete = service.client.get(f"{url}/4/files/__0_0.distcp")
    assert complete.content == bytes(range(256)) * 40
    part = service.client.get(f"{url}/4/files/__0_0.distcp", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert service.client.get(f"{url}/5").status_code == 404


@pytest.mark.parametrize(
    "path", ["../../../admin.key", "%2e%2e/%2e%2e/attempts/1/config.yaml", "/etc/passwd", ".", "", "nothing"]
)
def test_only_reported_files_can_be_downloaded(service: Service, body: dict[str, Any], path: str) -> None:
    job = service.wait_for(service.submit(body)["id"])
    answer = service.client.get(f"/v1/jobs/{job['id']}/checkpoints/4/files/{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_run_cannot_expose_files_outside_its_checkpoints(service: Service, body: dict[str, Any]) -> None:
    job = service.submit(with_mode(body, "forge"))
    assert service.wait_for(job["id"])["state"] == "SUCCEEDED"
    url = f"/v1/jobs/{job['id']}"
    for iteration in (1, 2):
        assert service.client.get(f"{url}/checkpoints/{iteration}/files/passwd").status_code == 404
    assert service.client.get(f"{url}/logs", params={"rank": 7}).status_code == 404


@pytest.mark.parametrize(
    "header",
    ["bytes=99999999-", "bytes=5-1", "bytes=a-b", "lines=1-2", "bytes=-0", "bytes=-", "bytes=0-1,3-4",
     f"bytes={'9' * 4400}-"],
)  # fmt: skip
def test_an_invalid_range_is_a_problem(service: Service, body: dict[str, Any], header: str) -> None:
    job = service.wait_for(service.submit(body)["id"])
    url = f"/v1/jobs/{job['id']}/checkpoints/4/files/.metadata"
    answer = service.client.get(url, headers={"Range": header})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_invalid")
