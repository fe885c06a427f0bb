"""The client with broken connections: streams, downloads, lost responses."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.loopback import Loopback, Request
from tests.support.sft import Sft

pytestmark = pytest.mark.slow

Serve = Callable[[Callable[[Request], None]], tuple[Loopback, Sft]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Yield a function that starts a server with a handler, and returns the server and a command for it."""
    with ExitStack() as running:

        def start(answer: Callable[[Request], None]) -> tuple[Loopback, Sft]:
            loopback = running.enter_context(Loopback(answer))
            return loopback, Sft(loopback.url, cwd=tmp_path)

        yield start


def close_connection(request: Request) -> None:
    """Send no response."""


# -- logs ------------------------------------------------------------------------------------------

LINES = [f"line {number} größe \u2028 \\n: data\n" for number in range(40)]
LOG = "".join(LINES)


class LogStream:
    """`/logs/stream` of the log of one attempt: a chunk per line, and a fault on each connection."""

    def __init__(self, *faults: str, reason: str = "finished") -> None:
        self.faults = list(faults)
        self.reason = reason
        offsets = [0]
        for line in LINES:
            offsets.append(offsets[-1] + len(line.encode()))
        self.offsets = offsets

    def __call__(self, request: Request) -> None:
        fault = self.faults.pop(0) if self.faults else ""
        if fault == "unavailable":
            return request.problem(503, "service_unavailable", Retry_After="1")
        if fault == "refused":
            return None
        _attempt, _, last = request.headers.get("last-event-id", "").partition("-")
        first = self.offsets.index(int(last or request.query["offset"]))
        request.start(200, "text/event-stream; charset=utf-8")
        request.write(": hello\n\n")
        for index in range(first, min(first + 15, len(LINES)) if fault else len(LINES)):
            request.write(self.event(index))
        self.end(request, fault)
        return None

    def event(self, index: int) -> str:
        begin, end = self.offsets[index : index + 2]
        data = {"attempt": 2, "rank": None, "offset": begin, "next_offset": end, "text": LINES[index]}
        return f"event: log\nid: 2-{end}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

    def end(self, request: Request, fault: str) -> None:
        done = {"reason": self.reason, "attempt": 2, "next_offset": self.offsets[-1]}
        following = self.event(min(16, len(LINES) - 1)).encode()
        if fault == "in the middle":
            request.write(following[: len(following) // 2])
        elif fault == "within a character":
            request.write(following[: following.index("ö".encode()) + 1])
        elif fault == "before the blank line":
            request.write(following[:-1])
        elif fault == "again":
            request.write(self.event(3))
        elif not fault:
            request.write(f": still here\n\nevent: end\ndata: {json.dumps(done)}\n\n")


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["cut"],
        ["in the middle", "within a character"],
        ["before the blank line", "again"],
        ["unavailable", "cut", "unavailable", "refused", "cut"],
    ],
)
def test_a_followed_log_is_neither_truncated_nor_duplicated(serve: Serve, faults: list[str]) -> None:
    loopback, sft = serve(LogStream(*faults))
    done = sft("logs", "-f", "job-1")
    assert (done.returncode, done.stdout) == (0, LOG)
    assert len(loopback.requests) == len(faults) + 1
    if "cut" in faults:
        assert loopback.requests[-1].headers["last-event-id"].startswith("2-")
    assert {request.path for request in loopback.requests} == {"/v1/jobs/job-1/logs/stream"}


def test_a_followed_log_prints_one_json_per_line(serve: Serve) -> None:
    _, sft = serve(LogStream("cut"))
    pieces = [json.loads(line) for line in sft("logs", "-f", "job-1", "--json").stdout.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == LOG
    assert [piece["offset"] for piece in pieces[1:]] == [piece["next_offset"] for piece in pieces[:-1]]


def test_following_with_tail_continues_after_the_tail(serve: Serve) -> None:
    stream = LogStream()

    def answer(request: Request) -> None:
        if not request.path.endswith("/logs"):
            return stream(request)
        assert request.query == {"tail": "2", "rank": "0"}
        page = {"attempt": 2, "rank": 0, "offset": stream.offsets[8], "next_offset": stream.offsets[10],
                "size": stream.offsets[10], "end": False, "text": "".join(LINES[8:10])}  # fmt: skip
        return request.json(page)

    loopback, sft = serve(answer)
    assert sft("logs", "-f", "--tail", "2", "--rank", "0", "job-1").stdout == "".join(LINES[8:])
    assert loopback.requests[1].query == {"rank": "0", "attempt": "2", "offset": str(stream.offsets[10])}


def test_a_revoked_key_ends_the_following(serve: Serve) -> None:
    _, sft = serve(LogStream(reason="revoked"))
    done = sft("logs", "-f", "job-1")
    assert (done.returncode, done.stdout) == (6, LOG)


def test_an_interrupt_ends_the_following(serve: Serve) -> None:
    def answer(request: Request) -> None:
        request.start(200, "text/event-stream")
        request.write(LogStream().event(0))
        request.handler.rfile.read()  # until the client has disconnected

    _, sft = serve(answer)
    following = sft.start("logs", "-f", "job-1")
    assert following.stdout is not None
    assert following.stdout.readline() in LINES[0]
    following.send_signal(signal.SIGINT)
    output, errors = following.communicate(timeout=30)
    assert (following.returncode, errors) == (130, "")
    assert "Traceback" not in output


def test_events_are_followed_once_each(serve: Serve) -> None:
    def answer(request: Request) -> None:
        request.start(200, "text/event-stream")
        last = int(request.headers.get("last-event-id", 0))
        for number in range(last + 1, last + 3):
            event = {"id": number, "attempt": 1, "at": "2026-01-01T00:00:00Z", "type": "state",
                     "actor": "system", "data": {"to": f"S{number}"}}  # fmt: skip
            request.write(f"event: event\nid: {number}\ndata: {json.dumps(event)}\n\n")
        if last >= 4:
            request.write('event: end\ndata: {"reason": "finished"}\n\n')

    _, sft = serve(answer)
    lines = sft("events", "-f", "job-1", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert "to=S6" in sft("events", "-f", "job-1").stdout


# -- checkpoints -----------------------------------------------------------------------------------

WEIGHTS = os.urandom(300_000)


class Saved:
    """A checkpoint of one file; each connection sends at most `most` bytes before it breaks."""

    def __init__(self, content: bytes = WEIGHTS, most: int = 1 << 30, **detail: Any) -> None:
        self.content = content
        self.most = most
        file = {"path": "a/weights", "bytes": len(content)}
        usual = {"iteration": 4, "attempt": 1, "saved_at": "2026-01-01T00:00:00Z", "files": [file]}
        self.detail = {**usual, **detail}

    def __call__(self, request: Request) -> None:
        if not request.path.endswith("/a/weights"):
            return request.json(self.detail)
        first = int(request.headers.get("range", "bytes=0-")[6:-1])
        status = 206 if first else 200
        length = str(len(self.content) - first)
        request.start(status, "application/octet-stream", Content_Length=length)
        return request.write(self.content[first : first + self.most])

    def downloads(self, loopback: Loopback) -> list[str | None]:
        return [one.headers.get("range") for one in loopback.requests if one.path.endswith("/a/weights")]


def test_an_interrupted_download_resumes(serve: Serve, tmp_path: Path) -> None:
    saved = Saved(most=100_000)
    loopback, sft = serve(saved)
    assert sft("checkpoints", "get", "job-1", "4", "-o", "out").returncode == 0
    assert (tmp_path / "out/a/weights").read_bytes() == WEIGHTS
    assert [path.name for path in (tmp_path / "out/a").iterdir()] == ["weights"]
    assert saved.downloads(loopback) == [None, "bytes=100000-", "bytes=200000-"]


def test_an_abandoned_download_resumes(serve: Serve, tmp_path: Path) -> None:
    saved = Saved(most=100_000)

    def answer(request: Request) -> None:
        if request.path.endswith("/a/weights") and len(saved.downloads(loopback)) == 2:
            return request.problem(404, "not_found")
        return saved(request)

    loopback, sft = serve(answer)
    assert sft("checkpoints", "get", "job-1", "4", "-o", "out").returncode == 5
    assert not (tmp_path / "out/a/weights").exists()
    assert sft("checkpoints", "get", "job-1", "4", "-o", "out").returncode == 0
    assert saved.downloads(loopback)[2] == "bytes=100000-"
    assert (tmp_path / "out/a/weights").read_bytes() == WEIGHTS


def test_a_partial_download_is_not_mixed_with_a_later_save(serve: Serve, tmp_path: Path) -> None:
    first = Saved()
    _, sft = serve(first)
    sft("checkpoints", "get", "job-1", "4", "-o", "out")
    other = Saved(WEIGHTS[::-1], attempt=2, saved_at="2026-01-02T00:00:00Z")
    loopback, sft = serve(other)
    assert sft("checkpoints", "get", "job-1", "4", "-o", "out").returncode == 0
    assert other.downloads(loopback) == [None]
    assert (tmp_path / "out/a/weights").read_bytes() == WEIGHTS[::-1]


def test_a_file_of_another_length_is_rejected(serve: Serve, tmp_path: Path) -> None:
    _, sft = serve(Saved(files=[{"path": "a/weights", "bytes": len(WEIGHTS) + 1}]))
    done = sft("checkpoints", "get", "job-1", "4", "-o", "out")
    assert (done.returncode, "300000 bytes instead of 300001" in done.stderr) == (1, True)
    assert list((tmp_path / "out/a").iterdir()) == []


@pytest.mark.parametrize(
    "path", ["../weights", "/tmp/weights", "a/../../weights", "", ".", "link/weights", "a\nb", "a\x1b[2Jb"]
)
def test_a_path_outside_the_target_directory_is_rejected(serve: Serve, tmp_path: Path, path: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    loopback, sft = serve(Saved(files=[{"path": path, "bytes": 1}]))
    done = sft("checkpoints", "get", "job-1", "4", "-o", "out")
    assert (done.returncode, "is not inside out" in done.stderr) == (1, True)
    assert len(loopback.requests) == 1
    assert "\x1b" not in done.stderr


# -- lost responses --------------------------------------------------------------------------------


def test_a_lost_response_creates_no_second_job(serve: Serve) -> None:
    def answer(request: Request) -> None:
        if request.number > 1:
            request.json({"id": "job-1"}, 201)

    loopback, sft = serve(answer)
    assert sft("submit", "--name", "once").stdout == "job-1\n"
    assert [request.method for request in loopback.requests] == ["POST"] * 3
    assert len({request.headers["idempotency-key"] for request in loopback.requests}) == 1
    assert json.loads(loopback.requests[0].body) == {"name": "once"}


@pytest.mark.parametrize(
    "arguments", [["retry", "job-1"], ["keys", "create", "anna"]], ids=lambda arguments: arguments[0]
)
def test_a_request_that_is_not_idempotent_is_sent_once(serve: Serve, arguments: list[str]) -> None:
    loopback, sft = serve(close_connection)
    assert sft(*arguments).returncode == 7
    assert len(loopback.requests) == 1


def test_an_unavailable_service_is_retried(serve: Serve) -> None:
    def answer(request: Request) -> None:
        if request.number == 0:
            request.problem(503, "service_unavailable", Retry_After="1")
        else:
            request.json({"items": [], "next_cursor": None})

    loopback, sft = serve(answer)
    assert sft("list").returncode == 0
    assert len(loopback.requests) == 2


def test_waiting_survives_the_errors_of_a_restart(serve: Serve) -> None:
    def answer(request: Request) -> None:
        job = {"id": "job-1", "state": "SUCCEEDED", "terminal": True,
               "progress": {"step": 4, "total_steps": 4, "loss": 1.0, "eta_seconds": None}}  # fmt: skip
        running = {**job, "state": "RUNNING", "terminal": False}
        answers: list[Callable[[], None]] = [
            lambda: request.json(running, ETag='"1"'),
            lambda: request.problem(503, "service_unavailable"),
            lambda: None,
            lambda: (request.start(500, "text/plain"), request.write("Internal Server Error"))[1],
            lambda: request.start(304, "text/plain", ETag='"1"'),
            lambda: request.json({**job, "failure": None}, ETag='"2"'),
        ]
        answers[request.number]()

    loopback, sft = serve(answer)
    done = sft("wait", "job-1")
    assert (done.returncode, done.stdout) == (0, "job-1 SUCCEEDED\n")
    assert [request.headers.get("if-none-match") for request in loopback.requests] == [None] + ['"1"'] * 5
    assert loopback.requests[-1].query == {"wait": "30s"}
