"""Projects share the service: limits hold, jobs without room wait visibly, submissions take turns."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.stand_in.control import starts_of, with_mode
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

Json = dict[str, Any]


class Team:
    """A project, and what its operator does."""

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.name = service, name
        made = service.client.post("/v1/keys", json={"name": name, "role": "operator", "project": name})
        self.headers = {"Authorization": f"Bearer {made.json()['key']}"}

    def send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        headers = {**self.headers, **content.pop("headers", {})}
        return self.service.client.request(method, f"/v1/{path}", headers=headers, **content)

    def post(self, mode: str = "wait", **more: Any) -> httpx2.Response:
        return self.send("POST", "jobs", json=with_mode(make_inputs(self.service.data_dir), mode, **more))

    def submit(self, mode: str = "wait", **more: Any) -> str:
        answer = self.post(mode, **more)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def act(self, job_id: str, action: str) -> httpx2.Response:
        return self.send("POST", f"jobs/{job_id}/{action}")

    def limit(self, **limits: int | None) -> Json:
        answer = self.service.client.put(f"/v1/projects/{self.name}/limits", json=limits)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def running(self, job_ids: list[str]) -> list[str]:
        return [job_id for job_id in job_ids if self.service.job(job_id)["state"] == "RUNNING"]

    def usage(self) -> Json:
        found: Json = self.send("GET", f"projects/{self.name}/limits").json()["usage"]
        return found

    def states(self, job_ids: list[str]) -> list[str]:
        return [self.service.job(job_id)["state"] for job_id in job_ids]

    def wait_for_room(self, job_id: str) -> Json:
        """Wait until the job waits for its project to have room; return the job."""

        def waits() -> Json | None:
            job = self.service.job(job_id)
            reason = job["state_reason"] or {}
            is_waiting = (job["state"], reason.get("code")) == ("SUBMITTING", "project_limit")
            return job if is_waiting else None

        return wait_until(waits, what=f"{job_id} to wait for room")

    def let_go(self, job_id: str, attempt: int = 1) -> None:
        """Let a run of the mode `wait` finish."""
        (self.service.data_dir / "jobs" / job_id / "attempts" / str(attempt) / "go").touch()


@pytest.fixture
def start(tmp_path: Path, stand_in: Path) -> Iterator[Callable[..., Service]]:
    """Return a function that starts a service with settings."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "clusters.toml").write_text(
        f'[local]\nmax_running = 9\nmax_gpus_per_node = 4\nroots = ["{data_dir}/inputs"]\n'
    )
    services: list[Service] = []

    def started(**settings: str) -> Service:
        common = {"SFT_TRAINER_PYTHON": str(stand_in), "SFT_POLL_INTERVAL_SECONDS": "0.2"}
        services.append(Service(data_dir, **{**common, **settings}))
        return services[-1]

    yield started
    for service in services:
        service.__exit__()


def test_a_project_never_has_more_live_jobs_than_its_limit(
    start: Callable[..., Service], database_url: str
) -> None:
    service = start(SFT_PROJECT_LIVE_JOBS="2", SFT_DATABASE_URL=database_url)
    team, rivals = Team(service, "team"), Team(service, "rivals")
    with ThreadPoolExecutor(5) as clients:
        jobs = list(clients.map(lambda _: team.submit(), range(5)))
    live = wait_until(lambda: (found := team.running(jobs)) and len(found) == 2 and found, what="two runs")
    waiting = [team.wait_for_room(job_id) for job_id in jobs if job_id not in live]
    assert {job["state_reason"]["message"] for job in waiting} == {
        "The limit of the project's live jobs is 2."
    }
    assert {job["backend"]["external_id"] for job in waiting} == {None}
    assert team.usage() == {"live_jobs": 2, "waiting_jobs": 3, "gpus": 2}
    service.wait_for(rivals.submit(), "RUNNING")  # others are not affected

    for job_id in live:  # at once: two are released together
        team.let_go(job_id)
    left = {job["id"] for job in waiting}
    while left:  # two that are released together may swap
        running = wait_until(partial(team.running, sorted(left)), what="a run")
        assert team.usage()["live_jobs"] <= 2
        for job_id in running:
            team.let_go(job_id)
        left -= set(running)
    for job_id in jobs:
        assert service.wait_for(job_id)["state"] == "SUCCEEDED"
    for job_id in jobs:  # nothing was lost, nothing doubled
        assert starts_of(service.data_dir / "jobs" / job_id) == ["1"]


def test_what_a_caller_can_do_with_a_job_that_waits_for_room(start: Callable[..., Service]) -> None:
    service = start()
    team = Team(service, "team")
    assert team.limit(live_jobs=1)["limits"] == {"live_jobs": 1, "waiting_jobs": 1000, "gpus": None}
    first = team.submit("hold")
    service.wait_for(first, "RUNNING")
    second = team.submit("hold")
    team.wait_for_room(second)
    third = team.submit("hold")
    team.wait_for_room(third)
    assert team.act(second, "cancel").status_code == 202
    assert service.wait_for(second)["state"] == "CANCELLED"
    assert service.job(third)["state"] == "SUBMITTING"  # the cancelled job had no room to give

    assert team.act(first, "pause").status_code == 202
    service.wait_for(first, "PAUSED")
    service.wait_for(third, "RUNNING")  # a paused job occupies nothing
    assert team.act(first, "resume").status_code == 202
    assert team.act(second, "retry").status_code == 202
    for job_id in (first, second):
        team.wait_for_room(job_id)
    team.limit(live_jobs=3)
    for job_id, attempt in ((first, 2), (second, 2), (third, 1)):
        assert service.wait_for(job_id, "RUNNING")["attempt"] == attempt


def test_gpus_of_a_project_are_limited_and_a_restart_forgets_nothing(start: Callable[..., Service]) -> None:
    service = start(SFT_PROJECT_GPUS="2")
    team = Team(service, "team")
    small = team.submit()
    service.wait_for(small, "RUNNING")
    large = team.submit(resources={"gpus_per_node": 2})
    assert "needs 2" in team.wait_for_room(large)["state_reason"]["message"]
    assert team.usage() == {"live_jobs": 1, "waiting_jobs": 1, "gpus": 1}
    with service.suspended("worker"):
        team.let_go(small)
    service.wait_for(large, "RUNNING")
    team.let_go(large)
    assert service.wait_for(large)["state"] == "SUCCEEDED"


def test_more_jobs_than_may_wait_are_rejected(start: Callable[..., Service]) -> None:
    service = start(SFT_PROJECT_LIVE_JOBS="1", SFT_PROJECT_WAITING_JOBS="2")
    team = Team(service, "team")
    ended = team.submit("train")
    assert service.wait_for(ended)["state"] == "SUCCEEDED"
    failed = team.submit("fail")
    assert service.wait_for(failed)["state"] == "FAILED"
    paused = team.submit("hold")
    service.wait_for(paused, "RUNNING")
    team.act(paused, "pause")
    service.wait_for(paused, "PAUSED")
    service.wait_for(team.submit("hold"), "RUNNING")
    waiting = [team.submit(), team.submit()]
    export = f"jobs/{ended}/checkpoints/4/export"
    rejected = [team.post(), team.send("POST", export), team.act(failed, "retry"), team.act(paused, "resume")]
    for answer in rejected:
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_waiting_jobs")
        assert int(answer.headers["Retry-After"]) > 0
    assert team.states([failed, paused]) == ["FAILED", "PAUSED"]
    assert Team(service, "rivals").post("train").status_code == 201
    team.act(waiting[0], "cancel")
    service.wait_for(waiting[0])
    assert team.act(failed, "retry").status_code == 202


def test_a_replay_is_no_further_job(start: Callable[..., Service]) -> None:
    team = Team(start(SFT_PROJECT_LIVE_JOBS="0", SFT_PROJECT_WAITING_JOBS="1"), "team")
    body = with_mode(make_inputs(team.service.data_dir), "wait")
    key = {"Idempotency-Key": "one"}
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: team.send("POST", "jobs", json=body, headers=key), range(8)))
    assert {(one.status_code, one.json()["id"]) for one in answers} == {(201, answers[0].json()["id"])}
    assert team.post().status_code == 429


def submitted_in_order(job_ids: list[str], service: Service) -> list[str]:
    """Return the jobs in the order in which the cluster accepted them."""

    def at(job_id: str) -> str | None:
        [attempt] = service.client.get(f"/v1/jobs/{job_id}/attempts").json()["items"]
        return attempt["submitted_at"]

    wait_until(lambda: all(map(at, job_ids)), 120, "all submissions")
    return sorted(job_ids, key=lambda job_id: at(job_id) or "")


def test_a_project_does_not_wait_behind_the_jobs_of_another(start: Callable[..., Service]) -> None:
    service = start(SFT_WORKER_THREADS="1")
    team, rivals, third = Team(service, "team"), Team(service, "rivals"), Team(service, "third")
    with service.suspended("worker"):
        many = [team.submit("train") for _ in range(12)]
        few = [rivals.submit("train"), rivals.submit("train")]
        one = third.submit("train")
    order = submitted_in_order([*many, *few, one], service)
    # What the worker was doing, or had received, when it was stopped comes first.
    assert max(order.index(job_id) for job_id in (few[0], one)) <= 4
    assert order.index(few[1]) <= 7
    assert [job_id for job_id in order if job_id in many] == many


def test_messages_for_polls_stay_few_while_no_worker_takes_them(start: Callable[..., Service]) -> None:
    service = start(SFT_POLL_INTERVAL_SECONDS="0.05", SFT_SWEEP_INTERVAL_SECONDS="0.05")
    team = Team(service, "team")
    job_id = team.submit()
    service.wait_for(job_id, "RUNNING")
    broker = service.broker()
    with service.suspended("worker"):
        keyspace = broker.info("commandstats").get("cmdstat_lrange", {}).get("calls", 0)

        def beats() -> int:
            """Ticks and sweeps of the beat since the worker was stopped."""
            return int(broker.info("commandstats")["cmdstat_lrange"]["calls"]) - int(keyspace)

        wait_until(lambda: beats() > 40, what="the beat to be due forty times")
        assert broker.llen("sft.looks") <= 2
    team.let_go(job_id)
    assert service.wait_for(job_id)["state"] == "SUCCEEDED"
