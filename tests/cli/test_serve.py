"""`sft serve` as users run it: one directory, several processes that stop together."""

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.support.inputs import make_inputs
from tests.support.service import Service, processes_of_runs
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until
from worker.settings import PROJECT_ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def own(data_dir: Path, stand_in: Path) -> Iterator[Service]:
    """Yield a service for one test, which may damage it."""
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_POLL_INTERVAL_SECONDS="0.2") as service:
        yield service


def sft(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *arguments]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
    return subprocess.run(
        command,
        env={**inherited, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=90,
    )


def family(service: Service) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children(recursive=True)


def test_serve_prints_its_addresses_and_writes_one_key(own: Service) -> None:
    for what in ("/docs", str(own.data_dir / "admin.key"), str(own.data_dir)):
        assert what in own.output
    path = own.data_dir / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().splitlines()) == 1
    assert own.client.get("/v1/whoami").json() == {"name": "admin", "project": "default", "role": "admin"}
    assert own.client.get("/docs").status_code == 200
    assert set(own.children()) == {"api", "worker", "beat", "broker"}


def test_an_interrupt_stops_every_process_and_a_restart_recovers_the_jobs(
    own: Service, stand_in: Path
) -> None:
    job = own.wait_for(own.submit(make_inputs(own.data_dir))["id"])
    key = (own.data_dir / "admin.key").read_text()
    processes = family(own)
    assert len(processes) >= 5
    assert own.stop() == 0
    _gone, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []

    with Service(own.data_dir, SFT_TRAINER_PYTHON=str(stand_in)) as again:
        assert again.job(job["id"])["state"] == "SUCCEEDED"
        assert (own.data_dir / "admin.key").read_text() == key


def test_waiting_requests_end_at_shutdown(own: Service) -> None:
    """Streams stop without `end`, so that their clients reconnect; a long poll gets its response."""
    job = own.submit(with_mode(make_inputs(own.data_dir), "hold"))
    own.wait_for(job["id"], "RUNNING")
    tag = own.client.get(f"/v1/jobs/{job['id']}").headers["etag"]
    with ThreadPoolExecutor() as pool, own.client.stream("GET", f"/v1/jobs/{job['id']}/stream") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: job"
        poll = pool.submit(
            own.client.get, f"/v1/jobs/{job['id']}?wait=60s", headers={"If-None-Match": tag}, timeout=60
        )
        api = own.children()["api"]
        wait_until(lambda: len(api.net_connections()) >= 3, what="both to be under way")
        own.process.send_signal(signal.SIGINT)
        assert "event: end" not in list(lines)
        assert poll.result().status_code in (200, 304)


def test_a_killed_supervisor_leaves_no_process_of_the_service(own: Service) -> None:
    processes = family(own)
    own.process.kill()
    own.process.wait()
    _gone, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []


def test_a_second_service_on_the_same_directory_is_rejected(own: Service) -> None:
    done = sft("serve", "--port", "0", "--data-dir", str(own.data_dir))
    assert done.returncode == 1
    assert "A service already runs" in done.stderr
    assert "--data-dir" in done.stderr
    assert "Traceback" not in done.stderr
    assert own.client.get("/readyz").status_code == 200


def test_an_invalid_port_is_wrong_usage(tmp_path: Path) -> None:
    done = sft("serve", "--port", "99999", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "65535" in done.stderr


def test_a_port_in_use_is_reported(own: Service, tmp_path: Path) -> None:
    port = str(own.client.base_url.port)
    done = sft("serve", "--port", port, "--data-dir", str(tmp_path / "other"))
    assert done.returncode == 1
    assert "Cannot listen on" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"DATABASE_URL": "postgresql+psycopg://anna:hunter2@127.0.0.1:1/sft"}, "anna:***@127.0.0.1:1/sft"),
        ({"REDIS_URL": "redis://:hunter2@127.0.0.1:1/0"}, "broker at redis://:***@127.0.0.1:1/0"),
        ({"SFT_CLUSTERS_FILE": "/dev/null/none"}, "/dev/null/none"),
        ({"SFT_POLL_INTERVAL_SECONDS": "soon"}, "SFT_POLL_INTERVAL_SECONDS"),
    ],
)
def test_a_wrong_configuration_is_reported_before_the_start(
    tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    done = sft("serve", "--port", "0", "--data-dir", str(tmp_path / "data"), **environment)
    assert done.returncode == 1
    assert says in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_directory_that_cannot_be_created_is_named() -> None:
    done = sft("serve", "--data-dir", "/dev/null/data")
    assert done.returncode == 1
    assert "/dev/null/data" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_continues_while_the_service_is_stopped(own: Service, stand_in: Path) -> None:
    job = own.submit(with_mode(make_inputs(own.data_dir), "hold"))
    own.wait_for(job["id"], "RUNNING")
    own.process.kill()
    own.process.wait()
    assert processes_of_runs(own.data_dir)

    (
        own.data_dir / "jobs" / job["id"] / "attempts/1/stop"
    ).touch()  # the run ends while the service is stopped
    wait_until(lambda: not processes_of_runs(own.data_dir), what="the run's end")
    with Service(own.data_dir, SFT_TRAINER_PYTHON=str(stand_in)) as again:
        ended = again.wait_for(job["id"])
        assert ended["progress"]["step"] == 4
        assert ended["latest_checkpoint"]["iteration"] == 4
        assert len(again.client.get(f"/v1/jobs/{job['id']}/attempts").json()["items"]) == 1


@pytest.mark.parametrize("what", ["worker", "beat"])
def test_a_process_without_a_broker_url_reports_it(data_dir: Path, what: str) -> None:
    """Without the check Celery would try to connect to a RabbitMQ on this machine, without end."""
    urls = ("SFT_REDIS_URL", "REDIS_URL")
    inherited = {name: value for name, value in os.environ.items() if name not in urls}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "--app", "worker.app", what], cwd=PROJECT_ROOT,
        env={**inherited, "SFT_DATA_DIR": str(data_dir)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "SFT_REDIS_URL" in done.stderr


def test_two_workers_and_two_beats_have_one_effect(data_dir: Path, stand_in: Path, broker: str) -> None:
    (data_dir / "clusters.toml").write_text(f'[local]\nmax_running = 3\nroots = ["{data_dir}/inputs"]\n')
    shared = {
        "SFT_REDIS_URL": broker, "SFT_TRAINER_PYTHON": str(stand_in), "SFT_POLL_INTERVAL_SECONDS": "0.2",
    }  # fmt: skip
    port = _free_port()
    with (
        Service(data_dir, **shared) as service,
        _another("worker", data_dir, {**shared, "SFT_WORKER_METRICS_PORT": str(port)}),
        _another("beat", data_dir, shared),
    ):
        wait_until(lambda: "sft_ingested_lines" in _scraped(port), what="the second worker")
        made = [service.submit(make_inputs(data_dir))["id"] for _ in range(8)]
        for job_id in made:
            assert service.wait_for(job_id)["state"] == "SUCCEEDED"
            _each_thing_happened_once(service.client.get(f"/v1/jobs/{job_id}/events").json()["items"])


def _scraped(port: int) -> str:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    except httpx2.TransportError:
        return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _another(what: str, data_dir: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run another Celery process of a service."""
    options = ["--pidfile="] if what == "beat" else ["--without-mingle"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "--app", "worker.app", "--quiet", what, *options],
        env={**os.environ, **environment, "SFT_DATA_DIR": str(data_dir)}, cwd=PROJECT_ROOT,
    )  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _each_thing_happened_once(events: list[dict[str, Any]]) -> None:
    kinds = [event["type"] for event in events]
    for kind in ("submitted", "trainer.started", "checkpoint", "trainer.finished"):
        assert kinds.count(kind) == 1, kind
    states = [event["data"]["to"] for event in events if event["type"] == "state"]
    assert len(states) == len(set(states))


def test_settings_are_shown_and_passwords_are_not(tmp_path: Path) -> None:
    url = "postgresql+psycopg://anna:hunter2@db/sft?password=hunter2"
    done = sft("settings", DATABASE_URL=url, SFT_WORKER_THREADS="7")
    assert done.returncode == 0
    assert "hunter2" not in done.stdout
    assert "anna:***@db" in done.stdout
    assert "SFT_WORKER_THREADS" in done.stdout
    assert "7" in done.stdout


def test_an_invalid_setting_is_named(tmp_path: Path) -> None:
    done = sft("settings", SFT_WORKER_THREADS="many")
    assert done.returncode == 1
    assert "SFT_WORKER_THREADS" in done.stderr
    assert "Traceback" not in done.stderr
