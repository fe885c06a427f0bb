"""One trace of request, task and the backend's submission, received by a local collector."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.inputs import make_inputs
from tests.support.json_lines import lines
from tests.support.service import Service
from tests.support.waiting import wait_until

Span = dict[str, Any]


class Collector(ThreadingHTTPServer):
    """Receives spans as OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def named(self, name: str) -> Span | None:
        return next((span for span in self.spans if span["name"] == name), None)

    def receive(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {a.key: a.value.string_value for a in resource.resource.attributes}["service.name"]
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                attributes = {a.key: a.value.string_value for a in span.attributes}
                self.spans.append({
                    "name": span.name, "service": service, "trace": span.trace_id, "id": span.span_id,
                    "parent": span.parent_span_id, "attributes": attributes,
                })  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            self.server.receive(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.slow
def test_request_task_and_submission_are_one_trace(
    collector: Collector, data_dir: Path, stand_in: Path
) -> None:
    # So long that spans are sent only at the end of the processes.
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), **settings) as service:
        body = make_inputs(data_dir)
        answer = service.client.post("/v1/jobs", params={"key": "sft_oops"}, json=body)
        service.client.get(f"/v1/jobs/hf_{'a1' * 17}")
        job_id = answer.json()["id"]
        service.wait_for(job_id)

    request, task = collector.named("POST /v1/jobs"), collector.named("worker.tasks.submit")
    call = collector.named("backend.submit")
    assert request
    assert task
    assert call
    assert {request["trace"]} == {task["trace"]} == {call["trace"]}
    assert (request["parent"], task["parent"], call["parent"]) == (b"", request["id"], task["id"])
    assert (request["service"], task["service"]) == ("sft-api", "sft-worker")
    assert request["attributes"]["sft.request_id"] == answer.headers["X-Request-ID"]
    assert task["attributes"]["job_id"] == job_id
    assert call["attributes"]["cluster"] == "local"
    assert "sft_oops" not in str(collector.spans)
    assert "hf_a1a1" not in str(collector.spans)
    # Periodic tasks create no trace.
    assert not collector.named("worker.tasks.poll")
    assert not collector.named("backend.poll")


@pytest.mark.slow
def test_an_unreachable_collector_costs_only_log_lines(data_dir: Path, stand_in: Path) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), **settings) as service:
        assert service.wait_for(service.submit(make_inputs(data_dir))["id"])["state"] == "SUCCEEDED"
        written = data_dir.parent / "serve.err"
        wait_until(lambda: "127.0.0.1" in written.read_text(), what="a line about the collector")
        assert service.stop() == 0
    assert lines(written.read_text())


IMPORT_EVERYTHING = """
from cli.main import app
if code := app(["init"], standalone_mode=False):
    sys.exit(code)
import api.app, worker.tasks
api.app.create_app()
tracing = ("opentelemetry.sdk", "opentelemetry.exporter")
print(sorted(name for name in sys.modules if name.startswith(tracing)))
"""
START_API = "import api.app; api.app.create_app()"
START_WORKER = "import worker.app; worker.app.worker_init.send(None)"


def run_without_packages(program: str, data_dir: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a process without OpenTelemetry's SDK."""
    blocked = "import sys; sys.modules['opentelemetry.sdk'] = None\n"
    environment = {"SFT_DATA_DIR": str(data_dir), "COLUMNS": "200", **more}
    command = [sys.executable, "-c", blocked + program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)


def test_without_a_collector_nothing_is_imported(data_dir: Path) -> None:
    done = run_without_packages(IMPORT_EVERYTHING, data_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['opentelemetry.sdk']"  # the blocked package


@pytest.mark.parametrize(
    "program", [IMPORT_EVERYTHING, START_API, START_WORKER], ids=["sft", "api", "worker"]
)
def test_missing_packages_for_a_collector_are_reported_at_the_start(data_dir: Path, program: str) -> None:
    done = run_without_packages(program, data_dir, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert done.returncode == 1
    assert "OpenTelemetry is not installed" in done.stderr
    if program == IMPORT_EVERYTHING:  # printed by sft
        assert "sft-service[otel]" in done.stderr
        assert "Traceback" not in done.stderr
