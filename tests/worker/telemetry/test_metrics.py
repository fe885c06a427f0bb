"""What the worker measures of its own work."""

import re
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from prometheus_client import REGISTRY

from tests.support.process import forget_settings
from tests.support.prometheus import value
from worker.db.models import Job
from worker.errors import BackendUnavailable, Misconfigured
from worker.jobs import queries
from worker.lifecycle import ingest, reconcile, submit
from worker.sandbox.functions import FUNCTIONS
from worker.settings import PROJECT_ROOT
from worker.states import JobState
from worker.telemetry import metrics, metrics_port

JobIn = Callable[..., Job]
CALLS = "sft_backend_call_duration_seconds_count"


@pytest.fixture
def port() -> int:
    """A free one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def calls(operation: str, outcome: str) -> float:
    labels = {"cluster": "local", "operation": operation, "outcome": outcome}
    return REGISTRY.get_sample_value(CALLS, labels) or 0.0


def lines() -> float:
    return REGISTRY.get_sample_value("sft_ingested_lines_total", {"cluster": "local"}) or 0.0


def test_what_a_backend_says_no_to_is_counted(job_in: JobIn, data_dir: Path) -> None:
    waiting, running = job_in(JobState.SUBMITTING), job_in(JobState.RUNNING)
    wanted = [
        ("submit", "ok"),
        ("submit", "backend_unavailable"),
        ("poll", "ok"),
        ("poll", "backend_unavailable"),
    ]
    before = {key: calls(*key) for key in wanted}
    reconcile.poll_cluster(running.cluster)
    (data_dir / "local").rename(data_dir / "aside")
    (data_dir / "local").write_text("where the spool should be")
    submit.submit(waiting.id)
    with pytest.raises(BackendUnavailable):
        reconcile.poll_cluster(running.cluster)
    (data_dir / "local").unlink()
    (data_dir / "aside").rename(data_dir / "local")
    submit.submit(waiting.id)
    assert {key: calls(*key) - before[key] for key in wanted} == dict.fromkeys(wanted, 1)


def test_a_rejection_is_an_outcome_of_its_own(job_in: JobIn, environment: pytest.MonkeyPatch) -> None:
    job = job_in(JobState.SUBMITTING)
    environment.setenv("SFT_TRAINER_PYTHON", "/nowhere/python")
    forget_settings()
    before = calls("submit", "scheduler_rejected")
    submit.submit(job.id)
    assert calls("submit", "scheduler_rejected") - before == 1


def test_lines_are_counted_when_they_are_taken_in(job_in: JobIn) -> None:
    job = job_in(JobState.RUNNING)
    events = Path(queries.attempt_of(job).directory or "") / "events.jsonl"
    events.write_bytes(b'no event\n{"event": "none"}\nhalf a li')
    before = lines()
    ingest.ingest(job.id)
    ingest.ingest(job.id)
    assert lines() - before == 2


def test_a_process_can_serve_its_own_on_a_port(port: int) -> None:
    metrics.BACKEND_SECONDS.labels("here", "poll", "ok").observe(0.5)
    metrics_port.listen(port)
    answer = httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
    assert value(answer.text, CALLS, cluster="here") == 1
    with pytest.raises(Misconfigured, match=f"port {port}"):
        metrics_port.listen(port)


def test_the_docs_list_the_values_of_labels() -> None:
    rows = (PROJECT_ROOT / "docs" / "operations.md").read_text().splitlines()
    listed = {
        row.split("`")[1]: set(re.findall(r"`(\w+)`", row)) for row in rows if row.startswith("| `sft_")
    }
    sources = "".join(path.read_text() for path in (PROJECT_ROOT / "worker").rglob("*.py"))
    operations = set(re.findall(r'metrics\.observed\(.*, "(\w+)"\)', sources))
    assert {"poll", "submit"} <= operations <= listed["sft_backend_call_duration_seconds"]
    assert FUNCTIONS.keys() <= listed["sft_inspections_total"]


def test_idle_clients_of_the_port_do_not_add_up(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port._PortHandler, "timeout", 600)  # only the limit closes them
    metrics_port.listen(port)
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(3 * metrics_port.MAX_SCRAPES)
        ]
        assert httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=30).is_success
        closed = 2 * metrics_port.MAX_SCRAPES
        assert [one.recv(1) for one in idle[:closed]] == [b""] * closed
        idle[-1].setblocking(False)
        with pytest.raises(BlockingIOError):  # it is open
            idle[-1].recv(1)
