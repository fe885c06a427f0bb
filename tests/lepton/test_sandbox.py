"""The jobs of the Lepton server: their life cycle and their environment."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.lepton.client import Client, job_body
from tests.support.lepton.server import workspace as workspace_module
from tests.support.lepton.server.sandbox import obstacle
from tests.support.lepton.server.server import LeptonServer
from tests.support.trainer_runs import PROJECT
from tests.support.waiting import wait_until

HOLD = "trap 'exit 0' TERM; echo up; sleep 600 & wait"


# -- life cycle ------------------------------------------------------------------------------------


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


def test_a_reported_state_does_not_change_the_job(client: Client) -> None:
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


def test_a_failed_job_is_retried_as_specified(client: Client) -> None:
    never, twice = client.create("never", "exit 1"), client.create("twice", "exit 1", max_job_failure_retry=2)
    client.wait_for("never", "Failed")
    client.wait_for("twice", "Failed")
    assert (never.starts, twice.starts) == (1, 3)


def test_a_preempted_job_is_requeued(client: Client) -> None:
    job = client.create("r1", HOLD)
    client.wait_for_lines("r1", 1)
    client.server.workspace.hold_queue = True
    job.requeue()
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


def test_a_stop_lets_a_job_end_gracefully(client: Client) -> None:
    client.create("r1", "trap 'echo saved; exit 0' TERM; echo up; sleep 600 & wait")
    client.wait_for_lines("r1", 1)
    client.patch("r1", stopped=True)
    client.wait_for("r1", "Stopped")
    assert [text for *_, text in client.lines("r1")] == ["up", "saved"]
    client.patch("r1", stopped=False)
    client.wait_for_lines("r1", 3)
    assert client.state("r1") == "Running"


def test_a_stop_kills_a_job_that_ignores_it(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
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


# -- environment -----------------------------------------------------------------------------------


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


def test_a_job_with_a_missing_secret_fails(client: Client) -> None:
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
    """Return the pids of processes with the marker in their command line."""
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
    """Return a script with a process that leaves the job's process group and session."""
    return f"setsid sleep {marker} & echo up; trap '' TERM; sleep {marker}"


def test_all_processes_of_a_job_end_with_the_job(client: Client) -> None:
    job = client.create("r1", detached("600.0101"), max_job_failure_retry=5)
    wait_until(lambda: len(processes_with("600.0101")) == 2)
    job.kill_replica(0)
    client.wait_for("r1", "Running")
    wait_until(lambda: job.starts == 2 and len(processes_with("600.0101")) == 2)


def test_everything_ends_with_the_server(lepton: LeptonServer) -> None:
    """The fixture skips the test if namespaces cannot be made."""
    with LeptonServer("other-ws") as server, Client(server) as client:
        job = client.create("r1", detached("600.0202"), completions=2, max_job_failure_retry=5)
        wait_until(lambda: len(processes_with("600.0202")) == 4)
    assert processes_with("600.0202") == []
    assert (job.state, server.directory.exists()) == ("Stopped", False)


KILLED = """
import sys
from tests.support.lepton.server.server import LeptonServer
with LeptonServer() as server:
    spec = {"container": {"command": ["sleep", "600.0303"]}}
    server.workspace.create({"metadata": {"id": "r1"}, "spec": spec})
    sys.stdin.read()
"""


def test_everything_ends_with_a_killed_server(lepton: LeptonServer, tmp_path: Path) -> None:
    """The fixture skips the test if namespaces cannot be made."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=PROJECT, stdin=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    with process:
        wait_until(lambda: processes_with("600.0303"))
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not processes_with("600.0303"))


def test_missing_namespaces_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "unshare" in (obstacle.__wrapped__() or "")
