"""The service as separate processes that a test may kill, stop and restart."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2

from cli.prepare import initialize
from tests.support.inputs import make_inputs
from tests.support.process import forget_settings
from tests.support.service import TERMINAL, kill_runs
from tests.support.stand_in.control import starts_of, with_mode
from tests.support.waiting import wait_until
from worker.settings import PROJECT_ROOT

ALL = ("api", "worker", "beat")
CELERY = ["celery", "--app", "worker.app", "--quiet"]
QUICK = {
    "SFT_POLL_INTERVAL_SECONDS": "0.3",
    "SFT_SWEEP_INTERVAL_SECONDS": "1",
    "SFT_STUCK_AFTER_SECONDS": "2",
    # One key sends all requests of a module's tests.
    "SFT_RATE_LIMIT_READS": "off",
    "SFT_RATE_LIMIT_WRITES": "off",
    "SFT_RATE_LIMIT_UNAUTHENTICATED": "off",
}
# No response may take longer, whatever is broken.
MAX_ANSWER_SECONDS = 15


class Parts:
    """api, worker and beat of one service on a given database and broker."""

    def __init__(self, data_dir: Path, port: int, **environment: str) -> None:
        self.data_dir = data_dir
        self.port = port
        self.chaos_dir = data_dir.parent / "chaos"
        self.chaos_dir.mkdir(exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SFT_")}
        own = {"SFT_DATA_DIR": str(data_dir), "CHAOS_DIR": str(self.chaos_dir)}
        self.environment = {**inherited, **QUICK, **own, **environment}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=MAX_ANSWER_SECONDS)

    def prepare(self) -> None:
        """Initialize like `sft init`, in this process."""
        names = ("SFT_DATABASE_URL", "SFT_DATA_DIR")
        before = {name: os.environ.get(name) for name in names}
        try:
            os.environ |= {name: self.environment[name] for name in names}
            forget_settings()
            initialize(self.data_dir)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            forget_settings()
        key = (self.data_dir / "admin.key").read_text().strip()
        self.client.headers["Authorization"] = f"Bearer {key}"

    def __enter__(self) -> "Parts":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        for name in list(self.processes):
            self.kill(name)
        kill_runs(self.data_dir)

    # -- processes -----------------------------------------------------------------------------

    def start(self, *names: str) -> None:
        """Start processes; a second worker is called worker-2. Returns when the api, if named, responds."""
        for name in names:
            command = [sys.executable, "-m", "cli.child", "tests.support.chaos.doomed", *self._command(name)]
            with (self.chaos_dir.parent / f"{name}.err").open("ab") as errors:
                self.processes[name] = subprocess.Popen(
                    command,
                    cwd=PROJECT_ROOT,
                    env=self._environment(name),
                    start_new_session=True,
                    stderr=errors,
                )
        if "api" in names:
            wait_until(self._responds, 60, "the api to respond")

    def _environment(self, name: str) -> dict[str, str]:
        own = f"clock.{name}"
        clock = own if (self.chaos_dir / own).exists() else "clock"
        return {**self.environment, "CHAOS_CLOCK": clock, "CHAOS_PART": _part(name)}

    def _command(self, name: str) -> list[str]:
        match _part(name):
            case "api":
                return ["api", "--host", "127.0.0.1", "--port", str(self.port)]
            case "worker":
                return [*CELERY, "worker", "--loglevel", "WARNING", "--without-mingle", "-n", f"{name}@%h"]
            case _:
                return [*CELERY, "beat", "--loglevel", "WARNING", "--pidfile="]

    def _responds(self) -> bool:
        try:
            return self.client.get("/healthz").is_success
        except httpx2.HTTPError:
            return False

    def kill(self, name: str) -> None:
        """Send SIGKILL."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def doom(self, name: str, point: str, when: str, call: int = 1) -> None:
        """Kill a process once it reaches a point: see doomed.py. Others may pass the point."""
        fresh = self.chaos_dir / "doom.new"
        fresh.write_text(f"{point} {when} {call}")
        fresh.rename(self.chaos_dir / f"doom.{_part(name)}")

    def spare_all(self) -> None:
        """Forget the dooms that nobody has met."""
        for path in self.chaos_dir.glob("doom.*"):
            path.unlink(missing_ok=True)

    def wait_for_death(self, name: str) -> None:
        """Wait until the doomed process has killed itself."""
        process = self.processes.pop(name)
        try:
            assert process.wait(60) == -signal.SIGKILL
        except BaseException:
            self.spare_all()
            self.processes[name] = process
            raise

    def set_clock(self, seconds: float, name: str | None = None) -> None:
        """Shift the clock of all processes, or of one process, by some seconds.

        Only processes that were started after a clock was set follow it.
        """
        fresh = self.chaos_dir / "clock.new"
        fresh.write_text(str(seconds))
        fresh.rename(self.chaos_dir / (f"clock.{name}" if name else "clock"))

    def dead(self) -> list[str]:
        """Return processes that have ended by themselves."""
        return [name for name, process in self.processes.items() if process.poll() is not None]

    # -- jobs ----------------------------------------------------------------------------------

    def body(self, mode: str = "train", **more: Any) -> dict[str, Any]:
        return with_mode(make_inputs(self.data_dir), mode, **more)

    def submit(self, mode: str = "train", key: str | None = None) -> str:
        """Retry until the response is 201, like a client with an Idempotency-Key."""
        headers = {"Idempotency-Key": key or os.urandom(8).hex()}
        body = self.body(mode)

        def made() -> str | None:
            try:
                answer = self.client.post("/v1/jobs", json=body, headers=headers)
            except httpx2.HTTPError:
                return None  # the api is unavailable, or died during the request
            assert answer.status_code in (201, 503), answer.text
            return str(answer.json()["id"]) if answer.status_code == 201 else None

        return wait_until(made, 120, "a job to be accepted")

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        job: dict[str, Any] = answer.json()
        return job

    def wait_for(self, job_id: str, *states: str, timeout: float = 120.0) -> dict[str, Any]:
        """Wait until the job is in one of the states, by default until it has ended, and return it."""
        wanted = set(states) or TERMINAL

        def reached() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] in wanted else None

        return wait_until(reached, timeout, f"{job_id} to be {wanted}; it is {self.job(job_id)['state']}")

    def events(self, job_id: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.client.get(f"/v1/jobs/{job_id}/events?limit=200").json()["items"]
        return items

    def starts(self, job_id: str) -> list[str]:
        """Return the started attempts, one entry per start of a run (tests/support/stand_in)."""
        return starts_of(self.data_dir / "jobs" / job_id)

    def let_go(self, job_id: str, attempt: int = 1) -> None:
        """Let a waiting run finish: mode `wait` of tests/support/stand_in."""
        (self.data_dir / "jobs" / job_id / "attempts" / str(attempt) / "go").touch()


def _part(name: str) -> str:
    """Return what a process is: worker-2 is a worker."""
    return name.partition("-")[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
