"""The service as users run it: `sft serve` on a directory, used over HTTP."""

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
from redis import Redis

from cli.broker import connect
from tests.support.waiting import wait_until

TERMINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "LOST"}


class Service:
    """`sft serve` as a process, and a client for it; as a context manager it always stops its runs, too."""

    def __init__(self, data_dir: Path, port: int = 0, **environment: str) -> None:
        self.data_dir = data_dir
        # The service must not inherit settings of the test process, such as its database.
        own = ("SFT_", "DATABASE_URL", "REDIS_URL", "OTEL_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(own)}
        quick = {
            "SFT_STUCK_AFTER_SECONDS": "2",
            "SFT_SWEEP_INTERVAL_SECONDS": "1",
            # One key sends all requests of a module's tests.
            "SFT_RATE_LIMIT_READS": "off",
            "SFT_RATE_LIMIT_WRITES": "off",
            "SFT_RATE_LIMIT_UNAUTHENTICATED": "off",
            "SFT_MAX_OPEN_REQUESTS": "1000",
        }
        with (data_dir.parent / "serve.err").open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "cli", "serve", "--port", str(port), "--data-dir", str(data_dir)],
                env={**inherited, **quick, **environment},
                stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True,
            )  # fmt: skip
        self.output = self._read_greeting()
        match = re.search(r"ready at (http://\S+)", self.output)
        assert match, f"the service did not start: {self.output}{(data_dir.parent / 'serve.err').read_text()}"
        key = (data_dir / "admin.key").read_text().strip()
        self.client = httpx2.Client(base_url=match[1], headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        kill_runs(self.data_dir)

    def _read_greeting(self) -> str:
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        return "".join(lines)

    def children(self) -> dict[str, psutil.Process]:
        """Return the service's own processes by kind."""
        names = {"api": "api", "worker": "worker", "beat": "beat", "broker": "cli.broker"}
        found = {}
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # it may have ended by now
                line = child.cmdline()
                found |= {name: child for name, word in names.items() if word in line}
        return found

    @contextlib.contextmanager
    def suspended(self, *names: str) -> Iterator[None]:
        """Stop some of the service's processes for a while, in the midst of no transaction.

        A stopped process that holds SQLite's lock would keep all others from writing.
        """
        found = self.children()
        processes = [found[name] for name in names]

        def are_stopped() -> bool:
            for process in processes:
                suspend(process)
            if is_writable(self.data_dir / "sft.db"):
                return True
            for process in processes:
                process.resume()
            return False

        wait_until(are_stopped, what="the end of all transactions")
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def broker(self) -> Redis:
        """Return a client of the broker that the service has started."""
        return connect(Path(self.children()["broker"].cmdline()[-2]))  # python -m cli.broker SOCKET DIRECTORY

    def stop(self) -> int:
        """Send Ctrl-C, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.client.close()
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()

    # -- jobs ----------------------------------------------------------------------------------

    def submit(self, body: dict[str, Any], **headers: str) -> dict[str, Any]:
        answer = self.client.post("/v1/jobs", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def wait_for(self, job_id: str, *states: str, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until the job is in one of the states, by default until it has ended, and return it."""
        wanted = set(states) or TERMINAL

        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["state"] in wanted or not job["terminal"], job
            return job if job["state"] in wanted else None

        return wait_until(reached, timeout, f"{job_id} to be {wanted}")


def suspend(process: psutil.Process) -> None:
    process.suspend()
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, what="a process to stop")


def is_writable(database: Path) -> bool:
    """Whether nobody holds the write lock of a SQLite database."""
    with contextlib.closing(sqlite3.connect(database, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True


def processes_of_runs(directory: Path) -> list[psutil.Process]:
    """Return all processes of the runs below a data directory or attempt: supervisors and ranks."""
    return [
        process
        for process in psutil.process_iter()
        if (run := _run_of(process)) and Path(run).is_relative_to(directory)
    ]


def kill_runs(directory: Path) -> None:
    """Kill all processes of the runs below a directory, also those that are just starting."""

    def none_is_left() -> bool:
        left = processes_of_runs(directory)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not left

    wait_until(none_is_left, what="the end of all runs")


def is_supervisor(process: psutil.Process) -> bool:
    return "worker.backends.local.supervisor" in process.cmdline()


def _run_of(process: psutil.Process) -> str | None:
    """Return the directory of the run that a process belongs to."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.cmdline()[-1] if is_supervisor(process) else process.environ().get("SFT_RUN")
    except psutil.Error:
        return None
