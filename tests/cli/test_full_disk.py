"""`sft serve` on a full disk: reads continue, writes are a 507, nothing is lost, no process ends."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.chaos.unavailable import assert_storage_full
from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.sft import Sft
from tests.support.small_disk import fill, mounted
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as disk:
        (disk / "data").mkdir()
        yield disk


@pytest.fixture
def own(disk: Path, stand_in: Path) -> Iterator[Service]:
    """Yield a service with its data, its log and its sockets on the small disk."""
    data_dir = disk / "data"
    (data_dir / "clusters.toml").write_text(f'[local]\nmax_running = 4\nroots = ["{data_dir}/inputs"]\n')
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_POLL_INTERVAL_SECONDS="0.2") as service:
        yield service


def begin(service: Service, mode: str) -> str:
    """Submit a job, and return its id when it runs."""
    job_id: str = service.submit(with_mode(make_inputs(service.data_dir), mode))["id"]
    service.wait_for(job_id, "RUNNING")
    return job_id


def attempt_of(service: Service, job_id: str) -> Path:
    return service.data_dir / "jobs" / job_id / "attempts" / "1"


def assert_reads(service: Service, job_id: str) -> None:
    """Check the status and the media type of each kind of read."""
    job = f"/v1/jobs/{job_id}"
    parts = ("attempts", "events", "logs", "metrics", "checkpoints", "checkpoints/4")
    paths = ["/healthz", "/readyz", "/v1/jobs", "/v1/keys", "/v1/clusters", "/v1/presets/nano3", job]
    media_types = dict.fromkeys([*paths, *(f"{job}/{part}" for part in parts)], "application/json") | {
        "/metrics": "text/plain",
        f"{job}/checkpoints/4/archive": "application/octet-stream",
    }
    answers = {path: service.client.get(path) for path in media_types}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(answers, 200)
    assert media_types == {
        path: answer.headers["content-type"].partition(";")[0] for path, answer in answers.items()
    }


def test_reads_continue_writes_are_507_and_nothing_is_lost(own: Service, disk: Path) -> None:
    ended = own.wait_for(own.submit(make_inputs(own.data_dir))["id"])["id"]
    running, unwanted = begin(own, "wait"), begin(own, "hold")
    before, body = own.children(), make_inputs(own.data_dir)
    filler = fill(disk)
    for _ in range(3):  # what the service frees meanwhile is filled again
        assert_reads(own, ended)
        assert_storage_full(own.client.post("/v1/jobs", json=body))
        assert_storage_full(own.client.post(f"/v1/jobs/{unwanted}/cancel"))
        assert_storage_full(own.client.post("/v1/keys", json={"name": "x", "role": "viewer", "project": "p"}))
        assert own.client.post("/v1/jobs:plan", json=body).status_code == 200
        assert own.job(running)["state"] == own.job(unwanted)["state"] == "RUNNING"
        fill(disk)
    filler.unlink()
    (attempt_of(own, running) / "go").touch()
    for job_id in (own.submit(body)["id"], running):
        assert own.wait_for(job_id)["state"] == "SUCCEEDED"
    assert own.client.post(f"/v1/jobs/{unwanted}/cancel").status_code == 202
    assert own.wait_for(unwanted)["state"] == "CANCELLED"
    assert own.children() == before


def test_no_process_maps_a_file_of_the_disk_but_the_index_of_sqlite(own: Service, disk: Path) -> None:
    own.client.get("/metrics")
    for process in (own.process.pid, *(child.pid for child in own.children().values())):
        mapped = {
            Path(one.path).name for one in psutil.Process(process).memory_maps() if str(disk) in one.path
        }
        assert mapped <= {"sft.db-shm"}  # SQLite writes to each page of it before it maps the page


def test_processes_are_restarted_on_a_full_disk(own: Service, disk: Path) -> None:
    running = begin(own, "wait")
    before = own.children()
    filler = fill(disk)
    for process in (before["broker"], before["beat"]):
        process.kill()
    for name in ("api", "worker"):
        before[name].terminate()  # they close their connections in order
    wait_until(lambda: not before["api"].is_running() or before["api"].status() == "zombie", what="the end")
    fill(disk)

    def are_others() -> bool:
        found = own.children()
        return found.keys() == before.keys() and not set(found.values()) & set(before.values())

    wait_until(are_others, 60, "other processes")
    wait_until(lambda: is_up(str(own.client.base_url), "/readyz"), 60, "the service to be ready")
    assert own.job(running)["state"] == "RUNNING"
    assert_storage_full(own.client.post("/v1/jobs", json=make_inputs(own.data_dir)))
    filler.unlink()
    (attempt_of(own, running) / "go").touch()
    for job_id in (running, own.submit(make_inputs(own.data_dir))["id"]):
        assert own.wait_for(job_id)["state"] == "SUCCEEDED"


def test_the_end_of_a_run_is_recorded_as_soon_as_there_is_space(own: Service, disk: Path) -> None:
    job_id = begin(own, "wait")
    attempt = attempt_of(own, job_id)
    filler = fill(disk)
    (attempt / "go").touch()  # its next write fails
    wait_until(lambda: len(supervised(attempt)) <= 1, what="the end of all but the supervisor")
    changes: set[int] = set()  # an attempt to write the record makes and removes a file
    wait_until(lambda: changes.add(attempt.stat().st_mtime_ns) or len(changes) > 4, what="some attempts")
    assert len(supervised(attempt)) == 1
    assert own.job(job_id)["state"] == "RUNNING"
    filler.unlink()
    ended = own.wait_for(job_id)
    assert (ended["state"], ended["failure"]["class"]) == ("FAILED", "disk_full")
    assert '"exited"' in (attempt / "exit.json").read_text()
    assert list(attempt.glob("*.new")) == []


def supervised(attempt: Path) -> list[psutil.Process]:
    """Return the processes of a run, its supervisor included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[-1:] == [str(attempt)] or process.environ().get("SFT_RUN") == str(attempt):
                found.append(process)
    return found


def test_a_start_on_a_full_disk_says_what_is_wrong(own: Service, disk: Path) -> None:
    own.stop()
    fill(disk)
    done = Sft(url="")("serve", "--port", "0", "--data-dir", str(own.data_dir))
    assert done.returncode == 1
    assert "has no space left" in done.stderr
    assert "Free some space" in done.stderr


def is_up(url: str, path: str) -> bool:
    try:
        return httpx2.get(f"{url}{path}", timeout=10).is_success
    except httpx2.HTTPError:
        return False


def test_the_output_of_the_service_may_be_on_a_full_disk(data_dir: Path) -> None:
    data_dir.chmod(0o755)  # closing it is printed, too
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(command, stdout=full, stderr=full, start_new_session=True)
    try:
        service = psutil.Process(process.pid)
        wait_until(lambda: is_up(f"http://127.0.0.1:{port}", "/readyz"), 60, "the service to be ready")
        killed = wait_until(lambda: worker_of(service), what="the worker")
        killed.kill()
        wait_until(lambda: worker_of(service) not in (None, killed), 60, "another worker")
        assert is_up(f"http://127.0.0.1:{port}", "/readyz")
    finally:
        process.terminate()
        process.wait(60)


def worker_of(service: psutil.Process) -> psutil.Process | None:
    for child in service.children():
        with suppress(psutil.Error):
            if "worker" in child.cmdline():
                return child
    return None
