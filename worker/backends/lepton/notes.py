"""The service's own notes about an attempt's submission, on disk and shared by all workers."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.run_layout import RunLayout
from worker.backends.access.local_files import LocalFiles

# File names of notes; each file's modification time is the time of the note.
TRIED, UNSEEN, ABANDONED = "tried", "unseen", "abandoned"
STARTED, COMPLETED, REQUEUED, OVERTIME = "began", "completed", "put_back", "overtime"
EVENTS_READ, UNEXPLAINED = "asked", "unexplained"
TIME_LIMIT = "limit_seconds"
_CONTENT = b"\n"


@dataclass(frozen=True)
class Notes:
    """Files in the attempt's directory of the mirror."""

    directory: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one worker at a time submit or abandon the attempt. A dead holder's lock is released."""
        self._files.make_directory(self.directory)
        with (self.directory / "submit.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def external_id(self) -> str | None:
        """Lepton's id of the job, once Lepton has answered."""
        path = RunLayout(self.directory).external_id
        return path.read_text().strip() if path.exists() else None

    def set_external_id(self, external_id: str) -> None:
        self._files.write(RunLayout(self.directory).external_id, f"{external_id}\n".encode())

    @property
    def time_limit_seconds(self) -> int:
        """The run's time limit; 0 if it was not noted."""
        path = self.directory / TIME_LIMIT
        return int(path.read_text()) if path.exists() else 0

    def set_time_limit(self, seconds: str) -> None:
        """Note the time limit here too, because Lepton may drop the label that holds it."""
        self._files.write(self.directory / TIME_LIMIT, f"{seconds}\n".encode())

    def set_once(self, name: str) -> None:
        """Set a note. If it is set already, its time stays."""
        if not self.age(name):
            self._files.make_directory(self.directory)
            self._files.write(self.directory / name, _CONTENT)

    def renew(self, name: str) -> None:
        """Set a note with the current time."""
        self._files.make_directory(self.directory)
        self._files.write(self.directory / name, _CONTENT)

    def remove(self, name: str) -> None:
        self._files.remove(self.directory / name)

    def at(self, name: str) -> float | None:
        """Return the note's time in seconds since 1970; None if it is not set."""
        path = self.directory / name
        return path.stat().st_mtime if path.exists() else None

    def age(self, name: str) -> float | None:
        """Return the note's age in seconds, never 0; None if it is not set."""
        at = self.at(name)
        return None if at is None else max(time.time() - at, 0.001)

    @property
    def _files(self) -> LocalFiles:
        return LocalFiles()
