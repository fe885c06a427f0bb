"""The lines that replicas have printed, as a Grafana Loki answer and as a stream."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PrintedLine:
    at_ns: int
    replica: str
    text: bytes


class Logs:
    """The lines of one job."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self._lines: list[PrintedLine] = []
        self._grown = threading.Condition()

    def add(self, replica: str, text: bytes, *, tick_ns: int = 1, at_ns: int | None = None) -> None:
        """Add a line. tick_ns: resolution of the clock. at_ns: time of the line; default: now."""
        now = time.time_ns() // tick_ns * tick_ns
        with self._grown:
            self._lines.append(PrintedLine(now if at_ns is None else at_ns, replica, text))
            self._grown.notify_all()

    def of(self, replica: str, after: int, timeout: float) -> list[PrintedLine]:
        """Return a replica's lines from number `after` on; wait for a line if there is none."""
        with self._grown:
            self._grown.wait_for(lambda: len(self._of(replica)) > after, timeout)
            return self._of(replica)[after:]

    def _of(self, replica: str) -> list[PrintedLine]:
        return [line for line in self._lines if line.replica == replica]

    def history(
        self,
        begin_ns: int,
        end_ns: int,
        *,
        limit: int,
        forward: bool,
        containing: str = "",
        replica: str | None = None,
        twice: bool = False,
        late_seconds: Mapping[str, float] | None = None,
    ) -> list[dict[str, Any]]:
        """Return the streams of Loki's answer. The limit counts over all streams.

        twice: repeat each line. late_seconds: replica -> seconds by which its lines appear late.
        """
        now = time.time_ns()
        shown = {name: now - int(seconds * 1e9) for name, seconds in (late_seconds or {}).items()}
        with self._grown:
            lines = [
                line
                for line in self._lines
                if begin_ns <= line.at_ns < end_ns
                and line.at_ns <= shown.get(line.replica, now)
                and replica in (None, line.replica)
                and containing.encode() in line.text
            ]
        lines.sort(key=lambda line: line.at_ns, reverse=not forward)
        chosen = [line for line in lines for _ in range(2 if twice else 1)][:limit]
        return [self._stream(name, chosen) for name in dict.fromkeys(line.replica for line in chosen)]

    def _stream(self, replica: str, lines: list[PrintedLine]) -> dict[str, Any]:
        values = [
            [str(line.at_ns), line.text.decode(errors="replace")] for line in lines if line.replica == replica
        ]
        return {"stream": {"job": self.job_id, "replica": replica}, "values": values}
