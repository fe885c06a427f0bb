"""`sft serve` restarts each of its processes that ends, and ends where that does not help."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from cli import supervise
from cli.supervise import ProcessFailed, Supervisor
from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.sft import Sft
from tests.support.stand_in.control import with_mode
from tests.support.waiting import wait_until

LONG_ENOUGH = 60.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Iterator[Service]:
    """Yield a service whose processes the tests of this module kill."""
    data_dir = tmp_path_factory.mktemp("killed") / "data"
    data_dir.mkdir()
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_POLL_INTERVAL_SECONDS="0.2") as service:
        yield service


def server_of(service: Service) -> psutil.Process | None:
    """Return the server under the broker process, if both run."""
    broker = service.children().get("broker")
    return next(iter(broker.children()), None) if broker else None


def is_ready(service: Service) -> bool:
    try:
        return service.client.get("/readyz").is_success
    except httpx2.HTTPError:
        return False


def lines_until(service: Service, text: str) -> str:
    """Read what the service prints up to a line with a text."""
    assert service.process.stdout is not None
    return next(line for line in service.process.stdout if text in line)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["api", "worker", "beat", "broker"])
def test_a_killed_process_is_restarted_and_jobs_continue(own: Service, name: str) -> None:
    running = own.submit(with_mode(make_inputs(own.data_dir), "wait"))["id"]
    own.wait_for(running, "RUNNING")
    before = own.children()
    killed = before[name]
    killed.kill()
    assert lines_until(own, f"The {name} process ended").endswith(
        "(killed by SIGKILL). It starts again in 0.5 s.\n"
    )
    wait_until(lambda: own.children().get(name, killed) != killed, LONG_ENOUGH, f"another {name}")
    wait_until(lambda: is_ready(own), LONG_ENOUGH, "the service to be ready")
    (own.data_dir / "jobs" / running / "attempts" / "1" / "go").touch()
    for job_id in (running, own.submit(make_inputs(own.data_dir))["id"]):
        assert own.wait_for(job_id)["state"] == "SUCCEEDED"
    # Celery's worker may end, too, where its broker does: it raises in the middle of its own reconnection.
    others = before.keys() - {name, "worker"}
    assert {other: own.children()[other] for other in others} == {other: before[other] for other in others}


@pytest.mark.slow
def test_a_killed_server_of_the_broker_is_restarted(own: Service) -> None:
    killed = server_of(own)
    assert killed
    killed.kill()
    assert "(exit code 137)" in lines_until(own, "The broker process ended")
    wait_until(lambda: server_of(own) not in (None, killed), what="another broker")
    wait_until(lambda: is_ready(own), what="the service to be ready")
    assert own.wait_for(own.submit(make_inputs(own.data_dir))["id"])["state"] == "SUCCEEDED"


@pytest.mark.slow
def test_all_processes_may_die_at_once(own: Service) -> None:
    before, server = own.children(), server_of(own)
    assert server
    for process in (*before.values(), server):
        process.kill()
    wait_until(
        lambda: own.children().keys() == before.keys() and own.children()["api"] != before["api"],
        LONG_ENOUGH,
        "other processes",
    )
    wait_until(lambda: is_ready(own), LONG_ENOUGH, "the service to be ready")
    assert own.wait_for(own.submit(make_inputs(own.data_dir))["id"])["state"] == "SUCCEEDED"


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
def processes(reported: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Supervisor]:
    """Yield a supervisor whose pauses are short."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_SECONDS", 0.001)
    supervisor = Supervisor(reported.append)
    yield supervisor
    supervisor.stop()


def test_a_process_that_ends_after_each_restart_ends_the_service(
    processes: Supervisor, reported: list[str]
) -> None:
    processes.start("worker", ["tests.no_such_module"])
    with pytest.raises(ProcessFailed, match="worker process ended again after 6 restarts: exit code 1"):
        processes.keep_running()
    pauses = [0.001 * 2**number for number in range(6)]
    assert reported == [
        f"The worker process ended (exit code 1). It starts again in {pause:g} s." for pause in pauses
    ]


def test_a_process_that_was_healthy_begins_with_the_shortest_pause(
    processes: Supervisor, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "HEALTHY_SECONDS", 0.0)
    processes.start("worker", ["tests.no_such_module"])
    stop_after(10, processes, reported)
    assert set(reported) == {"The worker process ended (exit code 1). It starts again in 0.001 s."}


class _Enough(Exception):
    pass


def stop_after(count: int, processes: Supervisor, reported: list[str]) -> None:
    """Let a supervisor work until it has reported so many lines."""

    def report(line: str) -> None:
        reported.append(line)
        if len(reported) == count:
            raise _Enough

    processes.report = report
    with pytest.raises(_Enough):
        processes.keep_running()


def test_a_machine_that_cannot_start_a_process_now_is_tried_again(
    processes: Supervisor, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    processes.start("worker", ["tests.no_such_module"])
    wait_until(processes.ended, what="the end of the process")
    monkeypatch.setattr(supervise, "PROJECT_ROOT", "/nowhere")
    stop_after(3, processes, reported)
    assert reported[1:] == [
        f"The worker process cannot be started (No such file or directory). It starts again in {pause} s."
        for pause in (0.002, 0.004)
    ]


@pytest.mark.slow
def test_a_process_that_cannot_start_ends_the_service_and_says_why(data_dir: Path) -> None:
    (data_dir / "run" / "valkey.sock").mkdir(parents=True)  # in the place of the broker's socket
    done = Sft(url="", variables={"DATABASE_URL": ""})("serve", "--port", "0", "--data-dir", str(data_dir))
    assert done.returncode == 1
    assert "The broker cannot start: [Errno 21] Is a directory" in done.stderr
    assert "The broker process ended while starting (exit code 1)" in done.stderr
