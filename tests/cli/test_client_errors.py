"""Errors of the client: an exit code, a message, and no traceback."""

import json
import os
import pty
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client.errors import ExitCode
from tests.support.loopback import Loopback, Request
from tests.support.service import Service
from tests.support.sft import COMMAND, Sft
from tests.support.trainer_runs import PROJECT

pytestmark = pytest.mark.slow

KEY = {"id": "key-1", "name": "anna", "role": "viewer", "project": "default", "last_used_at": None,
       "created_at": "2026-01-01T00:00:00Z", "expires_at": None, "revoked_at": None}  # fmt: skip
EVIL = "[red]\x1b]0;owned\x07\u202e[/nothing]"


def answer(request: Request) -> None:
    """Respond as a service with keys, an unlimited log, hostile names, and an error for each code."""
    if request.path.startswith("/v1/jobs/code-"):
        return request.problem(int(request.path[-3:]), "some_code")
    if (request.method, request.path) == ("POST", "/v1/keys"):
        return request.json({**KEY, **json.loads(request.body), "key": "sft_secret"}, 201)
    if request.path.endswith("/revoke"):
        return request.json({**KEY, "revoked_at": "2026-01-02T00:00:00Z"})
    if request.path == "/v1/presets":
        return request.json({"items": [{"name": EVIL, "description": EVIL}]})
    if request.path == "/v1/jobs/job-1/logs":
        at = int(request.query.get("offset", 0))
        return request.json({"attempt": 1, "rank": None, "offset": at, "next_offset": at + 100_000,
                             "size": 1 << 40, "end": False, "text": f"{EVIL}\n" * 5000})  # fmt: skip
    return request.json(
        {"items": [KEY], "next_cursor": None} if request.path == "/v1/keys" else {"what": "ever"}
    )


@pytest.fixture(scope="module")
def loopback() -> Iterator[Loopback]:
    with Loopback(answer) as running:
        yield running


@pytest.fixture
def sft(loopback: Loopback, tmp_path: Path) -> Sft:
    return Sft(loopback.url, cwd=tmp_path)


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1), (401, 6), (403, 6), (404, 5), (409, 1), (422, 1), (500, 1), (503, 7)]
)
def test_each_error_status_has_its_exit_code(sft: Sft, status: int, code: int) -> None:
    done = sft("show", f"code-{status}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "It is some_code.\n")


def test_an_unreachable_service_has_its_exit_code(sft: Sft) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    away = Sft(f"http://127.0.0.1:{port}", cwd=sft.cwd)
    for arguments in (["list"], ["wait", "job-1"], ["logs", "-f", "job-1"]):
        done = away(*arguments)
        assert (done.returncode, done.stdout) == (7, "")
        assert f"127.0.0.1:{port}" in done.stderr
    assert away("wait", "job-1", "--timeout", "0.5").returncode == 8


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "http://", "http://a:b@127.0.0.1", "http://x\x1b"])
def test_a_wrong_url_is_wrong_usage(sft: Sft, url: str) -> None:
    done = sft("--url", url, "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "\x1b" not in done.stderr


def test_another_server_is_recognized(sft: Sft) -> None:
    for arguments in (["whoami"], ["list"], ["clusters"], ["show", "job-1"], ["events", "-f", "job-1"]):
        done = sft(*arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert "--url" in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [1, 2", "expected"), (b'{"a": 1,}x', "expected"),
        (b"[1, 2]", "not an object"), (b"", "not an object"),
        (b"\xff\xfe\x00", "UTF-8"), (b"when: 2026-01-01", "JSON"), (b"lr: .nan", "JSON"),
        (b"a: &a [*a]", "JSON"),
        (b"a: !!python/object/apply:os.system [id]", "JSON"), (b"[" * 100_000, "JSON"),
        (None, "cannot be read"),
    ],
)  # fmt: skip
def test_a_bad_body_file_is_wrong_usage(sft: Sft, tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "body.yaml").write_bytes(content)
    for command in ("submit", "plan"):
        done = sft(command, "body.yaml")
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "--label", "nothing"], ["submit", "a=b", "nothing"], ["list", "--limit", "0"], ["show"],
        ["nothing"], ["checkpoints", "get", "job-1", "x"], ["--key-file", "none", "list"],
        ["--key-file", "empty", "list"], ["--key-file", "words", "list"],
    ],
)  # fmt: skip
def test_wrong_usage(sft: Sft, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "words").write_text("not a key\nbut ä few words")
    done = sft(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "few words" not in done.stderr


def test_a_local_service_is_called_without_a_proxy(service: Service) -> None:
    proxy = {
        "HTTP_PROXY": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "NO_PROXY": "",
        "no_proxy": "",
    }
    key = (service.data_dir / "admin.key").read_text().strip()
    done = Sft(str(service.client.base_url), key, variables=proxy)("whoami")
    assert done.returncode == 0, done.stderr


def test_the_local_admin_key_is_not_sent_to_another_machine(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "sft-data").mkdir()
    (tmp_path / "sft-data" / "admin.key").write_text("sft_admin\n")
    here = Sft(sft.url, None, cwd=tmp_path)
    assert here("keys", "list").returncode == 0
    there = Sft("http://192.0.2.1", None, cwd=tmp_path)("keys", "list")
    assert (there.returncode, "no API key" in there.stderr) == (6, True)


def test_a_directory_that_cannot_be_written(sft: Sft, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    detail = {"iteration": 4, "attempt": 1, "saved_at": "2026-01-01T00:00:00Z", "files": []}
    with Loopback(lambda request: request.json(detail)) as saved:
        done = Sft(saved.url, cwd=tmp_path)("checkpoints", "get", "job-1", "4", "-o", "file/out")
    assert (done.returncode, done.stderr) == (1, "file/out: Not a directory\n")


# -- keys ------------------------------------------------------------------------------------------


def test_a_key_is_printed_once_and_alone(sft: Sft, loopback: Loopback) -> None:
    done = sft("keys", "create", "anna", "--role", "viewer", "--expires-at", "2030-01-01T00:00:00Z")
    assert done.stdout == "sft_secret\n"
    assert "sft_secret" not in done.stderr
    sent = json.loads(loopback.requests[-1].body)
    assert sent == {"name": "anna", "role": "viewer", "expires_at": "2030-01-01T00:00:00Z"}
    assert sft.json("keys", "create", "anna", "--project", "other")["key"] == "sft_secret"
    assert json.loads(loopback.requests[-1].body)["project"] == "other"


def test_keys_are_listed_and_revoked(sft: Sft, loopback: Loopback) -> None:
    assert sft.json("keys", "list")["items"] == [KEY]
    assert "anna" in sft("keys", "list").stdout
    assert sft("keys", "revoke", "../jobs").stdout.startswith("key-1 revoked")
    assert loopback.requests[-1].path == "/v1/keys/..%2Fjobs/revoke"
    assert sft.json("keys", "revoke", "key-1")["revoked_at"]


# -- what is printed -------------------------------------------------------------------------------


def test_a_closed_pipe_is_quiet(sft: Sft) -> None:
    script = f"{' '.join(COMMAND)} logs job-1 | head -n 2 | wc -l; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], env=sft.environment(), capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["2", "1"]
    assert done.stderr == ""


def test_text_of_the_service_is_not_markup_and_cannot_control_a_terminal(sft: Sft) -> None:
    shown = _on_a_terminal(sft, "presets")
    assert "[red]" in shown
    assert "[/nothing]" in shown
    for harmful in ("\x1b]", "\x07", "\u202e"):
        assert harmful not in shown
    assert "\x1b" in shown  # headings are bold: the output is a terminal
    # Without a terminal a log is printed unchanged.
    piped = sft.start("logs", "job-1")
    assert piped.stdout is not None
    assert piped.stdout.readline() == f"{EVIL}\n"
    piped.stdout.close()
    assert piped.wait(30) == 1
    assert piped.stderr is not None
    assert piped.stderr.read() == ""
    piped.stderr.close()


def _on_a_terminal(sft: Sft, *arguments: str) -> str:
    """Return all output of a command to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments], env={**sft.environment(), "TERM": "xterm", "COLUMNS": "200"},
        stdin=theirs, stdout=theirs, stderr=theirs,
    ) as running:  # fmt: skip
        os.close(theirs)
        written = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            written += piece
            if not piece:
                break
        assert running.wait(30) == 0
    os.close(ours)
    return written.decode()


def test_client_commands_import_nothing_of_the_service() -> None:
    engine = "celery|sqlalchemy|sqlmodel|fastapi|starlette|omegaconf|worker|api|trainer"
    code = (
        "import sys, re, cli.main; "
        f"print(sorted(n for n in sys.modules if re.fullmatch('({engine})([.].*)?', n)))"
    )
    done = subprocess.run([COMMAND[0], "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_the_docs_have_every_exit_code(sft: Sft) -> None:
    page = (PROJECT / "docs" / "cli.md").read_text()

    text = " ".join(sft("--help").stdout.split())
    for code in ExitCode:
        assert f"| {code.value} |" in page
        assert f"{code.value} " in text.partition("Exit codes:")[2]
