"""What the service itself remembers of an attempt's submission, on disk and shared by all workers."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer.run_layout import RunLayout
from worker.backends.access.local_files import LocalFiles

TRIED, UNSEEN, ABANDONED = "tried", "unseen", "abandoned"
BEGAN, COMPLETED, PUT_BACK, OVERTIME = "began", "completed", "put_back", "overtime"
ASKED, UNEXPLAINED = "asked", "unexplained"
LIMIT = "limit_seconds"
_CONTENT = b"\n"


@dataclass(frozen=True)
class Notes:
    """Files in the attempt's directory of the mirror. What they say holds from then on."""

    directory: Path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Only one worker submits, or gives up, an attempt at a time; the kernel frees it with its holder."""
        self._files.make_directory(self.directory)
        with (self.directory / "submit.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @property
    def external_id(self) -> str | None:
        """What Lepton called the job, once it has answered."""
        path = RunLayout(self.directory).external_id
        return path.read_text().strip() if path.exists() else None

    def note_external_id(self, external_id: str) -> None:
        self._files.write(RunLayout(self.directory).external_id, f"{external_id}\n".encode())

    @property
    def limit_seconds(self) -> int:
        """For so long a run may run; 0 where nobody has said so."""
        path = self.directory / LIMIT
        return int(path.read_text()) if path.exists() else 0

    def note_limit(self, seconds: str) -> None:
        """Lepton may not keep the label that says it."""
        self._files.write(self.directory / LIMIT, f"{seconds}\n".encode())

    def note(self, what: str) -> None:
        """Note that something is so; the first time counts."""
        if not self.age(what):
            self._files.make_directory(self.directory)
            self._files.write(self.directory / what, _CONTENT)

    def renew(self, what: str) -> None:
        """Note that something was done, now."""
        self._files.make_directory(self.directory)
        self._files.write(self.directory / what, _CONTENT)

    def forget(self, what: str) -> None:
        self._files.remove(self.directory / what)

    def at(self, what: str) -> float | None:
        """When that was noted, in seconds since 1970; None where it was not."""
        path = self.directory / what
        return path.stat().st_mtime if path.exists() else None

    def age(self, what: str) -> float | None:
        """Seconds since then."""
        at = self.at(what)
        return None if at is None else max(time.time() - at, 0.001)

    @property
    def _files(self) -> LocalFiles:
        return LocalFiles()
