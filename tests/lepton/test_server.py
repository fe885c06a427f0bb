"""The server of Lepton's API by itself: what it answers, what it runs, what it does wrong when told to."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from tests.lepton.server import workspace as workspace_module
from tests.lepton.server.sandbox import obstacle
from tests.lepton.server.server import LeptonServer
from tests.lepton.server.workspace import Job
from tests.trainer_runs import PROJECT
from tests.waiting import wait_until

HOLD = "trap 'exit 0' TERM; echo up; sleep 600 & wait"


class Client:
    """Plain HTTP with the server."""

    def __init__(self, server: LeptonServer) -> None:
        self.server = server
        self.http = httpx2.Client(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.server.token}"}
        return self.http.request(method, self.server.url + path, headers=headers, **more)

    def get(self, path: str, **query: Any) -> Any:
        answer = self.ask("GET", path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def create(self, job_id: str, script: str = "true", **spec: Any) -> Job:
        """A job that runs this in a shell, as the workspace has it."""
        answer = self.ask("POST", "/jobs", json=job_body(job_id, script, **spec))
        assert answer.status_code == 201, answer.text
        return self.server.workspace.job(job_id)

    def state(self, job_id: str) -> str:
        found: str = self.get(f"/jobs/{job_id}")["status"]["state"]
        return found

    def wait_for(self, job_id: str, state: str) -> None:
        wait_until(lambda: self.state(job_id) == state, what=f"{job_id} {state}")

    def patch(self, job_id: str, *, stopped: bool) -> None:
        assert self.ask("PATCH", f"/jobs/{job_id}", json={"spec": {"stopped": stopped}}).status_code == 200

    def lines(self, job_id: str, **query: Any) -> list[tuple[str, int, str]]:
        """(replica, time, text) in the history's own order."""
        asked = {"job": job_id, "start": 1, "end": 1 << 62, "limit": 5000, "direction": "forward", **query}
        streams = self.get("/logs", **asked)["data"]["result"]
        return [(one["stream"]["replica"], int(at), text) for one in streams for at, text in one["values"]]

    def wait_for_lines(self, job_id: str, count: int) -> list[tuple[str, int, str]]:
        wait_until(lambda: len(self.lines(job_id)) >= count, what=f"{count} lines")
        return self.lines(job_id)


def job_body(job_id: str, script: str = "true", **spec: Any) -> dict[str, Any]:
    container = {"image": "any", "command": ["/bin/bash", "-c", script]}
    return {"metadata": {"id": job_id}, "spec": {"container": container, **spec}}


@pytest.fixture
def client(lepton: LeptonServer) -> Iterator[Client]:
    with Client(lepton) as found:
        yield found


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "A", "1a", "a-", "a_b", "a" * 37, "-a"])
def test_names_that_lepton_does_not_take(client: Client, name: str) -> None:
    assert client.ask("POST", "/jobs", json=job_body(name)).status_code == 400
    assert client.server.workspace.created == []


def test_the_longest_name(client: Client) -> None:
    client.create("a" * 36)


@pytest.mark.parametrize(
    "spec",
    [
        {"container": {"image": "any"}},
        {"container": {"command": "echo"}},
        {"completions": 0},
        {"mounts": [{"path": "/", "mount_path": "/x"}]},
    ],
)
def test_bodies_that_are_no_job(client: Client, spec: dict[str, Any]) -> None:
    assert client.ask("POST", "/jobs", json=job_body("r1", **spec)).status_code == 400
    assert client.ask("POST", "/jobs", content=b"{").status_code == 422
    assert client.server.workspace.created == []


def test_unknown_fields_are_passed_over_and_kept(client: Client) -> None:
    job = client.create("r1", fancy={"new": True})
    assert client.get("/jobs/r1")["spec"]["fancy"] == job.body["spec"]["fancy"] == {"new": True}


@pytest.mark.parametrize(
    "path", ["/jobs/no", "/jobs/no/events", "/jobs/no/replicas", "/logs?job=no", "/logs?replica=no-0", "/no"]
)
def test_what_is_not_there(client: Client, path: str) -> None:
    assert client.ask("GET", path).status_code == 404


def test_pages_begin_with_one_and_end_with_an_empty_one(client: Client) -> None:
    client.server.workspace.hold_queue = True
    for name in "abc":
        client.create(name)
    pages = [client.get("/jobs", page=page, page_size=2)["jobs"] for page in (1, 2, 3)]
    assert [[job["metadata"]["id"] for job in page] for page in pages] == [["c", "b"], ["a"], []]
    assert client.ask("GET", "/jobs", params={"page": 0}).status_code == 422


def test_what_was_asked_is_written_down(client: Client) -> None:
    client.get("/jobs", page=2, q="r1")
    client.ask("DELETE", "/jobs/no")
    assert client.server.requests == [("GET", "/jobs", {"page": "2", "q": "r1"}), ("DELETE", "/jobs/no", {})]
    assert client.server.asked("GET", "/jobs") == 1


def test_a_token_is_needed(client: Client) -> None:
    answer = client.http.get(f"{client.server.url}/jobs")
    assert (answer.status_code, answer.json()["message"]) == (401, "invalid token")


# -- faults ----------------------------------------------------------------------------------------


def test_a_status_for_the_next_two_requests_of_a_path(client: Client) -> None:
    client.server.faults.add(
        "status", method="GET", path="/jobs.*", times=2, status=429, headers={"Retry-After": "7"}
    )
    assert client.ask("GET", "/shapes").status_code == 200
    assert client.ask("DELETE", "/jobs/no").status_code == 404
    refused = [client.ask("GET", path) for path in ("/jobs", "/jobs/no", "/jobs")]
    assert [one.status_code for one in refused] == [429, 429, 200]
    assert refused[0].headers["Retry-After"] == "7"


def test_a_status_until_it_is_lifted(client: Client) -> None:
    client.server.faults.add(
        "status", status=502, headers={"Content-Type": "text/html"}, body=b"<h1>Bad Gateway</h1>"
    )
    answers = [client.ask("GET", "/jobs") for _ in range(3)]
    assert [one.text for one in answers] == ["<h1>Bad Gateway</h1>"] * 3
    client.server.faults.lift()
    assert client.get("/jobs") == {"jobs": []}


def test_a_cut_before_and_after_a_job_was_created(client: Client) -> None:
    client.server.faults.add("cut", method="POST", times=1)
    with pytest.raises(httpx2.TransportError):
        client.ask("POST", "/jobs", json=job_body("r1"))
    assert client.server.workspace.created == []
    client.server.faults.add("cut_after", method="POST", times=1)
    with pytest.raises(httpx2.TransportError):
        client.ask("POST", "/jobs", json=job_body("r1"))
    client.wait_for("r1", "Completed")


def test_an_answer_that_is_no_json(client: Client) -> None:
    client.server.faults.add("broken", times=1)
    with pytest.raises(json.JSONDecodeError):
        client.ask("GET", "/jobs").json()


def test_a_slow_answer_holds_no_other_one_up(client: Client) -> None:
    client.server.faults.add("slow", path="/jobs", seconds=600)
    with pytest.raises(httpx2.ReadTimeout):
        client.ask("GET", "/jobs", timeout=0.5)
    assert client.get("/usersecrets") == []


def test_ids_with_a_suffix(client: Client) -> None:
    client.server.faults.suffix_names = True
    jobs = [client.create("r1") for _ in range(2)]
    assert len({job.id for job in jobs}) == 2
    assert all(client.get(f"/jobs/{job.id}")["metadata"]["id"].startswith("r1-") for job in jobs)


# -- a job's life ----------------------------------------------------------------------------------


def test_jobs_wait_in_the_queue_run_and_end(client: Client) -> None:
    client.server.workspace.hold_queue = True
    client.create("good")
    client.create("bad", "exit 3")
    assert [client.state(name) for name in ("good", "bad")] == ["Queueing", "Queueing"]
    assert client.get("/jobs/good/replicas") == []
    client.server.workspace.release_queue()
    client.wait_for("good", "Completed")
    client.wait_for("bad", "Failed")
    status = client.get("/jobs/bad")["status"]
    assert (status["succeeded"], status["failed"], status["active"]) == (0, 1, 0)


def test_what_is_reported_is_not_what_happens(client: Client) -> None:
    job = client.create("r1", HOLD)
    client.wait_for_lines("r1", 1)
    job.shown = "Hibernating"
    assert client.state("r1") == "Hibernating"
    job.shown, job.is_forgotten = None, True
    assert client.ask("GET", "/jobs/r1").status_code == 404
    assert client.get("/jobs", job_query_mode="alive_and_archive") == {"jobs": []}
    job.is_forgotten = False
    assert (client.state("r1"), job.starts) == ("Running", 1)
    archived = {"job_query_mode": "archive_only"}
    assert client.ask("GET", "/jobs/r1", params=archived).status_code == 404
    job.is_archived = True
    assert client.ask("GET", "/jobs/r1").status_code == 404
    assert client.get("/jobs/r1", **archived)["status"]["state"] == "Archived"
    job.is_archived = False
    assert client.state("r1") == "Running"


def test_a_failed_job_is_begun_again_as_often_as_it_says(client: Client) -> None:
    never, twice = client.create("never", "exit 1"), client.create("twice", "exit 1", max_job_failure_retry=2)
    client.wait_for("never", "Failed")
    client.wait_for("twice", "Failed")
    assert (never.starts, twice.starts) == (1, 3)


def test_a_preempted_job_begins_again(client: Client) -> None:
    job = client.create("r1", HOLD)
    client.wait_for_lines("r1", 1)
    client.server.workspace.hold_queue = True
    job.begin_again()
    client.wait_for("r1", "Queueing")
    client.server.workspace.release_queue()
    client.wait_for_lines("r1", 2)
    assert (client.state("r1"), job.starts) == ("Running", 2)


def test_a_replica_that_fails_ends_the_others(client: Client) -> None:
    job = client.create("r1", HOLD, completions=3)
    client.wait_for_lines("r1", 3)
    job.kill_replica(1)
    client.wait_for("r1", "Failed")
    assert job.failed == 3


def test_a_stop_lets_a_job_end_in_its_own_way(client: Client) -> None:
    client.create("r1", "trap 'echo saved; exit 0' TERM; echo up; sleep 600 & wait")
    client.wait_for_lines("r1", 1)
    client.patch("r1", stopped=True)
    client.wait_for("r1", "Stopped")
    assert [text for *_, text in client.lines("r1")] == ["up", "saved"]
    client.patch("r1", stopped=False)
    client.wait_for_lines("r1", 3)
    assert client.state("r1") == "Running"


def test_a_stop_ends_what_does_not_want_to(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_module, "TERM_SECONDS", 0.2)
    client.create("r1", "trap '' TERM; echo up; while :; do sleep 1; done")
    client.wait_for_lines("r1", 1)
    client.patch("r1", stopped=True)
    client.wait_for("r1", "Stopped")


def test_a_job_is_stopped_in_the_queue(client: Client) -> None:
    client.server.workspace.hold_queue = True
    job = client.create("r1")
    client.patch("r1", stopped=True)
    assert client.state("r1") == "Stopped"
    client.patch("r1", stopped=False)
    assert client.state("r1") == "Queueing"
    client.server.workspace.release_queue()
    client.wait_for("r1", "Completed")
    assert job.starts == 1


def test_the_name_of_a_deleted_job_is_free(client: Client) -> None:
    client.create("r1", HOLD)
    assert client.ask("POST", "/jobs", json=job_body("r1")).status_code == 409
    assert client.ask("DELETE", "/jobs/r1").status_code == 200
    client.create("r1")
    client.wait_for("r1", "Completed")
    assert [job.id for job in client.server.workspace.created] == ["r1", "r1"]


# -- what a job runs in ----------------------------------------------------------------------------


def test_a_job_has_its_own_environment_only(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SFT_CANARY", "of the tests")
    client.server.workspace.secrets["TOKEN"] = "hidden"
    envs = [
        {"name": "PLAIN", "value": "a b"},
        {"name": "SECRET", "value_from": {"secret_name_ref": "TOKEN"}},
    ]
    client.create("r1", "env -0 | tr '\\0' '\\n'", envs=envs, completions=2)
    client.wait_for("r1", "Completed")
    second = dict(text.split("=", 1) for _, _, text in client.lines("r1", replica="r1-1"))
    expected = {
        "PLAIN": "a b", "SECRET": "hidden", "LEPTON_JOB_NAME": "r1", "LEPTON_JOB_WORKER_INDEX": "1",
        "LEPTON_JOB_TOTAL_WORKERS": "2", "LEPTON_WORKSPACE_ID": client.server.workspace_id,
    }  # fmt: skip
    assert expected.items() <= second.items()
    assert "SFT_CANARY" not in second


def test_a_job_with_a_secret_that_is_not_there_fails(client: Client) -> None:
    job = client.create("r1", envs=[{"name": "SECRET", "value_from": {"secret_name_ref": "NONE"}}])
    client.wait_for("r1", "Failed")
    assert client.get("/jobs/r1/events")[-1]["reason"] == "CreateContainerConfigError"
    assert job.starts == 0


MEET = """
import os, signal, socket, time
host = f"{os.environ['LEPTON_JOB_WORKER_PREFIX']}-0.{os.environ['LEPTON_SUBDOMAIN']}"
if os.environ["LEPTON_JOB_WORKER_INDEX"] == "0":
    server = socket.create_server(("", 29400))
    server.accept()[0].sendall(os.environ["LEPTON_JOB_NAME"].encode())
    signal.pause()  # holds the port
while True:
    try:
        print(socket.create_connection((host, 29400)).makefile().read(), flush=True)
        break
    except ConnectionRefusedError:
        time.sleep(0.01)
signal.pause()
"""


def test_the_replicas_of_each_job_meet_on_the_same_port(client: Client) -> None:
    for name in ("one", "two"):
        client.create(name, completions=2, container={"command": [sys.executable, "-c", MEET]})
    met = [client.wait_for_lines(name, 1) for name in ("one", "two")]
    assert [lines[0][::2] for lines in met] == [("one-1", "one"), ("two-1", "two")]
    assert [client.state(name) for name in ("one", "two")] == ["Running", "Running"]


def test_jobs_share_storage_and_see_it_where_they_mount_it(client: Client, tmp_path: Path) -> None:
    def mounts(path: str) -> list[dict[str, str]]:
        return [{"path": path, "from": "node-nfs:team", "mount_path": str(tmp_path / "at")}]

    at = tmp_path / "at"
    client.create("write", f"mkdir {at}/deep; echo hello > {at}/deep/file", mounts=mounts("/"))
    client.wait_for("write", "Completed")
    client.create("read", f"cat {at}/file", mounts=mounts("/deep"))
    client.wait_for("read", "Completed")
    assert [text for *_, text in client.lines("read")] == ["hello"]
    assert (client.server.storage / "team" / "deep" / "file").read_text() == "hello\n"
    assert list(at.iterdir()) == []


def processes_with(marker: str) -> list[int]:
    """Those that have it in their command line."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command = (directory / "cmdline").read_bytes()
        except OSError:  # it has just ended
            continue
        if marker.encode() in command.split(b"\0"):
            found.append(int(directory.name))
    return found


def detached(marker: str) -> str:
    """A script whose process leaves the group and the session of the job's."""
    return f"setsid sleep {marker} & echo up; trap '' TERM; sleep {marker}"


def test_what_a_job_has_started_ends_with_the_job(client: Client) -> None:
    job = client.create("r1", detached("600.0101"), max_job_failure_retry=5)
    wait_until(lambda: len(processes_with("600.0101")) == 2)
    job.kill_replica(0)
    client.wait_for("r1", "Running")
    wait_until(lambda: job.starts == 2 and len(processes_with("600.0101")) == 2)


def test_everything_ends_with_the_server(lepton: LeptonServer) -> None:
    """The fixture skips it where namespaces cannot be made."""
    with LeptonServer("other-ws") as server, Client(server) as client:
        job = client.create("r1", detached("600.0202"), completions=2, max_job_failure_retry=5)
        wait_until(lambda: len(processes_with("600.0202")) == 4)
    assert processes_with("600.0202") == []
    assert (job.state, server.directory.exists()) == ("Stopped", False)


KILLED = """
import sys
from tests.lepton.server.server import LeptonServer
with LeptonServer() as server:
    spec = {"container": {"command": ["sleep", "600.0303"]}}
    server.workspace.create({"metadata": {"id": "r1"}, "spec": spec})
    sys.stdin.read()
"""


def test_everything_ends_where_the_server_is_killed(lepton: LeptonServer, tmp_path: Path) -> None:
    """The fixture skips it where namespaces cannot be made."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=PROJECT, stdin=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with process:
        wait_until(lambda: processes_with("600.0303"))
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not processes_with("600.0303"))


def test_where_namespaces_cannot_be_made_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "unshare" in (obstacle.__wrapped__() or "")


# -- logs ------------------------------------------------------------------------------------------


def test_lines_come_in_their_order_and_the_limit_counts_over_all_replicas(client: Client) -> None:
    client.create("r1", "for n in {1..50}; do echo $n; echo e$n >&2; done", completions=2)
    client.wait_for("r1", "Completed")
    expected = [text for n in range(1, 51) for text in (str(n), f"e{n}")]
    for replica in ("r1-0", "r1-1"):
        assert [text for *_, text in client.lines("r1", replica=replica)] == expected
    every = sorted(at for _, at, _ in client.lines("r1"))
    assert sorted(at for _, at, _ in client.lines("r1", limit=7)) == every[:7]
    assert sorted(at for _, at, _ in client.lines("r1", limit=7, direction="backward")) == every[-7:]
    assert len(client.lines("r1", q="e49")) == 2
    answer = client.get("/logs", replica="r1-1")["data"]["result"]
    assert [stream["stream"] for stream in answer] == [{"job": "r1", "replica": "r1-1"}]


def test_bytes_that_are_no_text(client: Client) -> None:
    client.create("r1", r"printf 'bad \377 byte\nno end'")
    client.wait_for("r1", "Completed")
    assert [text for *_, text in client.lines("r1")] == ["bad \ufffd byte", "no end"]
    assert client.ask("GET", "/jobs/r1/replicas/r1-0/log").content == b"bad \xff byte\nno end\n"
    assert client.ask("GET", "/jobs/r1/replicas/r1-7/log").status_code == 404


def test_chunks_that_split_characters(client: Client) -> None:
    client.create("r1", "echo éééééééé")
    client.wait_for("r1", "Completed")
    headers = {"Authorization": f"Bearer {client.server.token}"}
    url = f"{client.server.url}/jobs/r1/replicas/r1-0/log"
    with client.http.stream("GET", url, headers=headers) as response:
        chunks = list(response.iter_raw())
    assert b"".join(chunks).decode() == "éééééééé\n"
    with pytest.raises(UnicodeDecodeError):
        chunks[0].decode()


def test_lines_twice(client: Client) -> None:
    client.create("r1", "echo a; echo b")
    client.wait_for("r1", "Completed")
    client.server.faults.repeat_lines = True
    assert [text for *_, text in client.lines("r1")] == ["a", "a", "b", "b"]


def test_lines_of_one_moment(client: Client) -> None:
    client.server.faults.clock_tick_ns = 3600 * 10**9
    client.create("r1", "seq 5", completions=2)
    client.wait_for("r1", "Completed")
    lines = client.lines("r1")
    assert (len(lines), len({at for _, at, _ in lines})) == (10, 1)
    assert [text for *_, text in client.lines("r1", replica="r1-0")] == list("12345")


def test_lines_that_come_late_have_their_own_time(client: Client) -> None:
    client.server.faults.late_seconds[0] = 600
    job = client.create("r1", "echo x", completions=2)
    client.wait_for("r1", "Completed")
    assert [replica for replica, *_ in client.lines("r1")] == ["r1-1"]
    client.server.faults.late_seconds.clear()
    assert {replica for replica, *_ in client.lines("r1")} == {"r1-0", "r1-1"}
    assert job.state == "Completed"
