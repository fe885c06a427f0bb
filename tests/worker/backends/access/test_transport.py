"""Commands get through whole, here and over SSH, and no call waits longer than it was told to."""

import json
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.sshd import Sshd, make_key
from tests.support.waiting import wait_until
from worker.backends.access import ssh
from worker.backends.access.ssh import SshTransport
from worker.backends.access.transport import LocalTransport, Transport
from worker.errors import BackendUnavailable

LIMIT = 60.0
"""Seconds that only a broken test needs."""

HOSTILE = [
    "", " ", "  two  ", "\t", "\n", "a\nb", "\r\n", "'", '"', "''", "'\\''", "\\", "\\\\n", "$HOME",
    "${PATH}", "$(id)", "`id`", "; id", "&& id", "| cat", "> /tmp/x", "< /etc/passwd", "*", "?", "[a-z]", "~",
    "~root", "#", "!", "!!", "-n", "--", "-", "=", "{a,b}", "(", ")", "&", "%s", "é", "日本", "\U0001f600",
    "\x7f", "\udcff",
]  # fmt: skip


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    (tmp_path / "sshd").mkdir()
    running = Sshd(tmp_path / "sshd")
    running.start()
    yield running
    running.signal_sessions(signal.SIGCONT)
    ssh.disconnect()
    running.stop()


def over_ssh(server: Sshd, **changed: Path) -> SshTransport:
    keys = {"identity": server.identity, "known_hosts": server.known_hosts, **changed}
    return SshTransport("127.0.0.1", server.user, server.port, **keys)


@pytest.fixture(params=["local", "ssh"])
def transport(request: pytest.FixtureRequest) -> Transport:
    return LocalTransport() if request.param == "local" else over_ssh(request.getfixturevalue("server"))


# -- what gets through -----------------------------------------------------------------------------


def test_arguments_come_through_byte_for_byte(transport: Transport) -> None:
    code = "import json, os, sys; json.dump([list(os.fsencode(word)) for word in sys.argv[1:]], sys.stdout)"
    answer = transport.run(python(code, *HOSTILE), timeout=LIMIT)
    sent = [word.encode(errors="surrogateescape") for word in HOSTILE]
    assert [bytes(word) for word in json.loads(answer.out)] == sent


def test_exit_code_and_both_streams_come_back(transport: Transport) -> None:
    answer = transport.run(["sh", "-c", "cat; echo wrong >&2; exit 7"], stdin="é\nin", timeout=LIMIT)
    assert answer == (7, "é\nin", "wrong\n")


def test_a_command_without_input_sees_its_end(transport: Transport) -> None:
    assert transport.run(["cat"], timeout=LIMIT).out == ""


def test_a_command_may_leave_its_input_unread(transport: Transport) -> None:
    assert transport.run(["true"], stdin="x" * (4 << 20), timeout=LIMIT).code == 0


def test_large_streams_go_all_ways_at_once(transport: Transport) -> None:
    size = 10 << 20
    answer = transport.run(["sh", "-c", "tee /dev/stderr"], stdin="0123456789" * (size // 10), timeout=LIMIT)
    assert (len(answer.out), len(answer.err)) == (size // 10 * 10,) * 2
    assert set(answer.err[:10000:10]) == {"0"}


def test_bytes_that_are_no_text_are_replaced(transport: Transport) -> None:
    assert transport.run(["printf", "a\\377b"], timeout=LIMIT).out == "a\N{REPLACEMENT CHARACTER}b"


def test_a_command_that_does_not_exist_has_the_code_of_shells(transport: Transport, tmp_path: Path) -> None:
    answer = transport.run(["no-such-command"], timeout=LIMIT)
    assert (answer.code, "no-such-command" in answer.err) == (127, True)
    assert transport.run([str(tmp_path)], timeout=LIMIT).code == 126


def test_a_command_that_a_signal_ended_gave_no_answer(transport: Transport) -> None:
    with pytest.raises(BackendUnavailable):
        transport.run(["sh", "-c", "kill -9 $$"], timeout=LIMIT)


def test_nothing_of_the_services_environment_is_seen(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SFT_DATABASE_URL", "secret-url")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert "secret-url" not in transport.run(["env"], timeout=LIMIT).out


def test_a_local_command_gets_what_was_added() -> None:
    answer = LocalTransport({"SLURM_CONF": "/x"}).run(["printenv", "SLURM_CONF"], timeout=LIMIT)
    assert answer.out == "/x\n"


# -- time limits -----------------------------------------------------------------------------------


def test_what_takes_too_long_is_ended_with_all_its_processes(transport: Transport, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 1000 & echo $! $$ > '{pids}'; wait"
    with pytest.raises(BackendUnavailable, match="within 1"):
        transport.run(["sh", "-c", script], timeout=1)
    for pid in pids.read_text().split():
        wait_until(lambda pid=pid: _is_gone(int(pid)), what=f"the end of {pid}")  # type: ignore[misc]


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_time_out_leaves_other_commands_alone(transport: Transport, tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = ["sh", "-c", f"while [ ! -e '{go}' ]; do sleep 0.05; done; echo done"]
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(transport.run, waits, timeout=LIMIT)
        with pytest.raises(BackendUnavailable):
            transport.run(["sleep", "1000"], timeout=0.5)
        go.touch()
        assert other.result().out == "done\n"


@pytest.mark.timeout(60)
def test_a_hung_server_holds_no_call_beyond_its_limit(server: Sshd) -> None:
    transport = over_ssh(server)
    transport.run(["true"], timeout=LIMIT)
    server.signal_sessions(signal.SIGSTOP)
    for stdin in ("", "x" * (16 << 20)):
        with pytest.raises(BackendUnavailable):
            transport.run(["cat"], stdin=stdin, timeout=2)


def test_a_server_that_hangs_in_mid_command_is_given_up(server: Sshd, tmp_path: Path) -> None:
    transport = over_ssh(server)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(transport.run, _touches(tmp_path / "on"), timeout=3)
        wait_until((tmp_path / "on").exists)
        server.signal_sessions(signal.SIGSTOP)
        with pytest.raises(BackendUnavailable):
            call.result(LIMIT)


@pytest.mark.timeout(60)
def test_a_connection_that_takes_nothing_holds_no_call(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.socket.connect

    def with_small_buffer(connecting: socket.socket, address: Any) -> None:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        connect(connecting, address)

    monkeypatch.setattr(socket.socket, "connect", with_small_buffer)
    transport = over_ssh(server)
    with ThreadPoolExecutor(4) as threads:
        # Nobody reads, so each continues to write until its channel's window is full.
        calls = [
            threads.submit(transport.run, _touches(tmp_path / "on"), stdin="x" * (32 << 20), timeout=4)
            for _ in range(4)
        ]
        wait_until((tmp_path / "on").exists)
        server.signal_sessions(signal.SIGSTOP)
        try:
            for call in calls:
                with pytest.raises(BackendUnavailable, match="within 4"):
                    call.result()
        finally:
            server.signal_sessions(signal.SIGCONT)  # or the threads would never end


def test_a_hung_connection_is_replaced(server: Sshd) -> None:
    transport = over_ssh(server)
    transport.run(["true"], timeout=LIMIT)
    server.signal_sessions(signal.SIGSTOP)
    # The listening server continues, and serves a new connection.
    wait_until(lambda: _answers(transport, timeout=3), what="a new connection")


def test_a_command_is_not_started_after_its_deadline(server: Sshd, tmp_path: Path) -> None:
    transport = over_ssh(server)
    transport.run(["true"], timeout=LIMIT)
    server.signal_sessions(signal.SIGSTOP)
    with pytest.raises(BackendUnavailable, match="within 1"):
        transport.run(["touch", str(tmp_path / "late")], timeout=1)
    server.signal_sessions(signal.SIGCONT)
    for _ in range(2 * ssh.MAX_COMMANDS):
        assert transport.run(["true"], timeout=LIMIT).code == 0
    assert not (tmp_path / "late").exists()
    assert server.connections() == 1


def test_calls_that_expire_cost_the_server_no_channels(server: Sshd, tmp_path: Path) -> None:
    transport = over_ssh(server)
    (tmp_path / "file").write_text("x")
    transport.run(["true"], timeout=LIMIT)
    for _ in range(12):  # more than a server allows on a connection
        server.signal_sessions(signal.SIGSTOP)
        with pytest.raises(BackendUnavailable):
            transport.run(["true"], timeout=0.1)
        server.signal_sessions(signal.SIGCONT)
        assert transport.run(["true"], timeout=LIMIT).code == 0
    assert transport.files().read(tmp_path / "file", 0, 1) == b"x"
    assert server.connections() == 1


def _answers(transport: Transport, timeout: float) -> bool:
    try:
        return transport.run(["echo", "yes"], timeout=timeout).out == "yes\n"
    except BackendUnavailable:
        return False


def _touches(path: Path) -> list[str]:
    return ["sh", "-c", f"touch '{path}'; exec sleep 1000"]


# -- the connection --------------------------------------------------------------------------------


def test_one_connection_serves_all_objects(server: Sshd) -> None:
    for _ in range(3):
        over_ssh(server).run(["true"], timeout=LIMIT)
    assert server.connections() == 1


def test_twenty_threads_share_a_connection(server: Sshd) -> None:
    def ask(number: int) -> str:
        return over_ssh(server).run(["echo", str(number)], timeout=LIMIT).out

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(ask, range(60))) == [f"{number}\n" for number in range(60)]
    assert server.connections() == 1


def test_no_more_channels_are_open_than_a_server_allows(server: Sshd, tmp_path: Path) -> None:
    """Files and commands together stay under sshd's MaxSessions; who waits too long is told."""
    transport = over_ssh(server)
    go = tmp_path / "go"
    waits = ["sh", "-c", f"echo $$ >> '{tmp_path}/running'; while [ ! -e '{go}' ]; do sleep 0.05; done"]
    with ThreadPoolExecutor(ssh.MAX_COMMANDS) as threads:
        calls = [threads.submit(transport.run, waits, timeout=LIMIT) for _ in range(ssh.MAX_COMMANDS)]
        wait_until(lambda: len(_lines(tmp_path / "running")) == ssh.MAX_COMMANDS)
        with pytest.raises(BackendUnavailable, match="no channel was free"):
            transport.run(["true"], timeout=0.2)
        with ThreadPoolExecutor(20) as readers:
            assert set(readers.map(lambda _: transport.files().read(tmp_path / "running", 0, 1), range(40)))
        go.touch()
        assert [call.result().code for call in calls] == [0] * ssh.MAX_COMMANDS


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_a_server_that_went_and_came_back_is_used_again(server: Sshd, tmp_path: Path) -> None:
    transport, files = over_ssh(server), over_ssh(server).files()
    (tmp_path / "file").write_text("x")
    assert transport.run(["true"], timeout=LIMIT).code == 0
    assert files.read(tmp_path / "file", 0, 1) == b"x"
    server.stop()
    with pytest.raises(BackendUnavailable):
        transport.run(["true"], timeout=LIMIT)
    with pytest.raises(BackendUnavailable):
        files.read(tmp_path / "file", 0, 1)
    server.start()
    assert transport.run(["true"], timeout=LIMIT).code == 0
    assert files.read(tmp_path / "file", 0, 1) == b"x"


def test_a_connection_cut_in_mid_command_is_no_answer(server: Sshd, tmp_path: Path) -> None:
    transport = over_ssh(server)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(transport.run, _touches(tmp_path / "on"), timeout=LIMIT)
        wait_until((tmp_path / "on").exists)
        server.signal_sessions(signal.SIGKILL)
        with pytest.raises(BackendUnavailable, match="was cut"):
            call.result(LIMIT)
    assert transport.run(["true"], timeout=LIMIT).code == 0


def test_a_cut_connection_costs_no_read(server: Sshd, tmp_path: Path) -> None:
    files = over_ssh(server).files()
    (tmp_path / "file").write_text("x")
    for _ in range(3):
        assert files.read(tmp_path / "file", 0, 1) == b"x"
        server.signal_sessions(signal.SIGKILL)


def test_a_file_session_that_ends_alone_costs_no_read(server: Sshd, tmp_path: Path) -> None:
    transport = over_ssh(server)
    (tmp_path / "file").write_text("x")
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: transport.files().read(tmp_path / "file", 0, 1), range(40))) == {
            b"x"
        }
    for session in server.sessions():
        if "internal-sftp" in " ".join(session.cmdline()):
            session.kill()
    assert transport.files().read(tmp_path / "file", 0, 1) == b"x"
    assert server.connections() == 1


# -- who is on the other side ----------------------------------------------------------------------


def refusal(ask: Callable[[], object]) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        ask()
    return f"{caught.value.message} {caught.value.hint}"


def test_an_unknown_host_is_refused(server: Sshd) -> None:
    server.known_hosts.write_text("")
    transport = over_ssh(server)
    said = refusal(lambda: transport.run(["true"], timeout=LIMIT))
    assert "not known" in said
    assert f"ssh-keyscan -p {server.port} 127.0.0.1" in said
    # Once the operator has done what it says, it is used.
    server.know(server.directory / "host_key.pub")
    assert transport.run(["true"], timeout=LIMIT).code == 0


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa"])
def test_a_host_with_another_key_is_refused(server: Sshd, kind: str) -> None:
    server.stop()
    server.new_host_key(kind)
    server.start()
    said = refusal(lambda: over_ssh(server).run(["true"], timeout=LIMIT))
    assert f"{kind}-sha2" in said or f"ssh-{kind} SHA256:" in said
    assert "is not the known ssh-ed25519 SHA256:" in said
    assert "ssh-keygen -R" in said


def test_a_key_that_the_host_does_not_accept_is_named(server: Sshd, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other")
    said = refusal(lambda: over_ssh(server, identity=other).run(["true"], timeout=LIMIT))
    assert str(other) in said


@pytest.mark.parametrize("parameter", ["identity", "known_hosts"])
def test_files_that_are_missing_are_named(server: Sshd, tmp_path: Path, parameter: str) -> None:
    missing = tmp_path / "missing"
    said = refusal(lambda: over_ssh(server, **{parameter: missing}).run(["true"], timeout=LIMIT))
    assert str(missing) in said
