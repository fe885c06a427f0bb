"""The jobs of a workspace and their states."""

import re
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.lepton.server.faults import InjectedFaults
from tests.support.lepton.server.logs import Logs
from tests.support.lepton.server.sandbox import SUBDOMAIN, Sandbox
from tests.support.waiting import wait_until

ENDED = {"Completed", "Failed", "Stopped"}
CREATOR = "test@example.com"
"""Creator of all jobs: the owner of the token."""
TERM_SECONDS = 5.0
"""Seconds between SIGTERM and SIGKILL of a stop."""


class ServerJob:
    """A job, and its processes while it runs."""

    def __init__(self, workspace: "ServerWorkspace", job_id: str, body: dict[str, Any]) -> None:
        self.workspace, self.id, self.body = workspace, job_id, body
        self.metadata = {
            **body["metadata"],
            "id": job_id,
            "name": job_id,
            "created_at": _now_ms(),
            "created_by": CREATOR,
        }
        self.spec: dict[str, Any] = body["spec"]
        self.logs = Logs(job_id)
        self.state = "Queueing"
        self.shown: str | None = None
        """State to report instead, set by a test."""
        self.ready: int | None = None
        """Number of running replicas to report instead, set by a test."""
        self.starts = 0
        self.is_forgotten = self.is_archived = self.is_malformed = False
        self.unlisted = 0
        """So many of the next lists do not contain the job."""
        self.events: list[dict[str, Any]] = []
        self.sandbox: Sandbox | None = None
        self.succeeded = self.failed = 0
        self._completed_at: int | None = None
        self._wanted = "run"
        self._directory = Path(tempfile.mkdtemp(dir=workspace.directory, prefix=f"{job_id}-"))

    @property
    def replicas(self) -> list[str]:
        """Ids of the replicas."""
        return [f"{self.id}-{index}" for index in range(self.size)] if self.starts else []

    @property
    def size(self) -> int:
        return int(self.spec.get("completions") or 1)

    def view(self) -> dict[str, Any]:
        """Return the job as the API shows it."""
        if self.is_malformed:
            return {"metadata": self.id}
        state = "Archived" if self.is_archived else self.shown or self.state
        running = self.size if self.state == "Running" else 0
        ready = running if self.ready is None else self.ready
        status = {
            "job_name": self.id, "state": state, "ready": ready, "active": ready,
            "succeeded": self.succeeded, "failed": self.failed,
            "creation_time": self.metadata["created_at"], "completion_time": self._completed_at,
            "job_history": [],
        }  # fmt: skip
        return {"metadata": self.metadata, "spec": self.spec, "status": status}

    # -- life cycle -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the job unless it was stopped."""
        with self.workspace.lock:
            if self._wanted != "run" or self.state not in ("Queueing", "Restarting", "PendingRetry"):
                return
            self.state = "Starting"
            self.note_event("Normal", "Started")
            environments = self._environments()
            if environments is None:
                self.state = "Failed"
                self._completed_at = _now_ms()
                self.note_event("Warning", "CreateContainerConfigError")
                return
            self.starts += 1
            self.sandbox = Sandbox(
                self.spec["container"]["command"], environments, self._mounts(), self._directory,
                on_line=self._on_line, on_end=self._on_end,
            )  # fmt: skip
            self.state = "Running"

    def stop(self) -> None:
        with self.workspace.lock:
            self._wanted, self.spec["stopped"] = "stop", True
            if self.state in ENDED:
                return
            self.state = "Stopping" if self.sandbox else "Stopped"
            self._end_processes()

    def restart(self) -> None:
        with self.workspace.lock:
            self.spec["stopped"] = False
            if self.state == "Stopping":
                self._wanted = "again"
                return
            self._wanted = "run"
            if self.state in ENDED:
                self.state, self._completed_at = "Queueing", None
        self.workspace.schedule(self)

    def requeue(self) -> None:
        """Kill and requeue the job, as after a preemption."""
        with self.workspace.lock:
            self._wanted = "again"
            assert self.sandbox is not None
            self.sandbox.kill()

    def kill_replica(self, index: int) -> None:
        """Kill a replica, as the OOM killer does."""
        assert self.sandbox is not None
        self.sandbox.tell(signal.SIGKILL, index)

    def close(self) -> None:
        """Kill the job without a restart."""
        with self.workspace.lock:
            self._wanted = "stop"
            if self.sandbox:
                self.sandbox.kill()

    def note_event(self, kind: str, reason: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        about = {"kind": "LeptonJob", "name": self.id}
        event = {"type": kind, "reason": reason, "regarding": about, "count": 1, "last_observed_time": moment}
        self.events.append(event)

    def _end_processes(self) -> None:
        if self.sandbox is None:
            return
        self.sandbox.tell(signal.SIGTERM)
        killer = threading.Timer(TERM_SECONDS, self.sandbox.kill)
        killer.daemon = True
        killer.start()

    def _on_line(self, index: int, text: bytes) -> None:
        self.logs.add(f"{self.id}-{index}", text, tick_ns=self.workspace.faults.clock_tick_ns)

    def _on_end(self, codes: list[int | None]) -> None:
        with self.workspace.lock:
            self.sandbox = None
            wanted, went_well = self._wanted, all(code == 0 for code in codes)
            self.succeeded, self.failed = codes.count(0), len(codes) - codes.count(0)
            self._completed_at = _now_ms()
            if wanted == "stop":
                self.state = "Stopped"
                return
            if wanted == "again":
                self.state, self._wanted = "Queueing", "run"
            elif went_well or self.starts > self._retries():
                self.state = "Completed" if went_well else "Failed"
                return
            else:
                self.state = "PendingRetry"
            self._completed_at = None
        self.workspace.schedule(self)

    def _retries(self) -> int:
        return int(self.spec.get("max_job_failure_retry") or 0) + int(self.spec.get("max_failure_retry") or 0)

    # -- environment ----------------------------------------------------------------------------

    def _environments(self) -> list[dict[str, str]] | None:
        """Return the environment of each replica; None if a secret is missing."""
        own = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin",
            "HOME": str(self._directory),
            "LANG": "C.UTF-8",
        }
        for one in self.spec.get("envs") or []:
            value = one.get("value")
            if ref := (one.get("value_from") or {}).get("secret_name_ref"):
                value = self.workspace.secrets.get(ref)
            if value is None:
                return None
            own[one["name"]] = value
        own |= {
            "LEPTON_WORKSPACE_ID": self.workspace.id,
            "LEPTON_JOB_NAME": self.id,
            "LEPTON_JOB_WORKER_PREFIX": f"{self.id}-worker",
            "LEPTON_SUBDOMAIN": SUBDOMAIN,
            "LEPTON_JOB_TOTAL_WORKERS": str(self.size),
        }
        return [{**own, "LEPTON_JOB_WORKER_INDEX": str(index)} for index in range(self.size)]

    def _mounts(self) -> list[tuple[Path, str]]:
        found = []
        for one in self.spec.get("mounts") or []:
            volume = one["from"].partition(":")[2] or one["from"]
            source = self.workspace.storage / volume / (one.get("path") or "").lstrip("/")
            source.mkdir(parents=True, exist_ok=True)
            found.append((source, one["mount_path"]))
        return found


class ServerWorkspace:
    """The state behind the API of a workspace. Tests control it by its methods."""

    def __init__(self, workspace_id: str, directory: Path, faults: InjectedFaults) -> None:
        self.id, self.directory, self.faults = workspace_id, directory, faults
        self.storage = directory / "storage"
        self.storage.mkdir()
        self.lock = threading.RLock()
        self.created: list[ServerJob] = []
        """All jobs in order, including forgotten ones."""
        self.secrets: dict[str, str] = {}
        self.hold_queue = False
        """New jobs stay in the queue."""

    def create(self, body: dict[str, Any]) -> ServerJob | None:
        """Create a job; return None if its id is taken."""
        with self.lock:
            job_id = body["metadata"].get("id") or body["metadata"]["name"]
            if self.faults.suffix_names:
                job_id = f"{job_id}-{secrets.token_hex(2)}"
            if self.find(job_id):
                return None
            job = ServerJob(self, job_id, body)
            self.created.append(job)
        self.schedule(job)
        return job

    def schedule(self, job: ServerJob) -> None:
        if not self.hold_queue:
            threading.Thread(target=job.start, daemon=True).start()

    def release_queue(self) -> None:
        """Start all queued jobs."""
        self.hold_queue = False
        for job in self.created:
            self.schedule(job)

    def find(self, job_id: str) -> ServerJob | None:
        """Return a job that the API knows."""
        return next((job for job in self.created if job.id == job_id and not job.is_forgotten), None)

    def job(self, name: str) -> ServerJob:
        """Return the newest job of a name, with or without suffix, even if the API does not know it."""
        return [job for job in self.created if re.fullmatch(rf"{name}(-\w+)?", job.id)][-1]

    def listed(self, mode: str, chosen: Callable[[ServerJob], bool]) -> list[ServerJob]:
        archived = {"alive_only": (False,), "archive_only": (True,)}.get(mode, (False, True))
        with self.lock:
            known = [job for job in self.created if not job.is_forgotten and job.is_archived in archived]
            late = [job for job in known if job.unlisted]
            for job in late:
                job.unlisted -= 1
            known = [job for job in known if job not in late]
        return [job for job in reversed(known) if chosen(job)]

    def close(self) -> None:
        """Kill all jobs and wait for their end."""
        self.hold_queue = True
        for job in self.created:
            job.close()
        wait_until(lambda: not any(job.sandbox for job in self.created), what="the end of all jobs")


def _now_ms() -> int:
    return int(time.time() * 1000)
