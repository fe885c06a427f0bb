"""What a run says of itself: event lines and the end marker. The format: docs/job-directory.md. No torch."""

import contextlib
import json
import math
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

EVENTS, END, STOP, LOGS = "events.jsonl", "end.json", "stop", "logs"
PREFIX = "SFT_EVENT "
PART_PREFIX = "SFT_EVENT_PART "
# What is written to a pipe in one piece is at most PIPE_BUF, 4,096 bytes on Linux.
PART_CHARACTERS = 3800
STDOUT = 1


class EventWriter:
    """Writes the event lines of one rank to the run directory and to stdout."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        self.run_dir = run_dir
        self.rank = rank
        self._seq = 0

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event and return it. The line is whole or absent: it is one write."""
        line = {"event": event, "seq": self._seq, "rank": self.rank, "at": _now(), **fields}
        self._seq += 1
        line = {key: _finite(value) for key, value in line.items()}
        text = json.dumps(line, allow_nan=False)
        descriptor = os.open(self.run_dir / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, text.encode() + b"\n")
        finally:
            os.close(descriptor)
        sys.stdout.flush()
        for printed in _printed(line, text):
            # Unbuffered, print() writes text and newline apart, and other ranks write into the same pipe.
            os.write(STDOUT, f"{printed}\n".encode())
        return line

    def end(self, event: str, **fields: Any) -> None:
        """Write the last event, and the end marker unless another rank has done so."""
        line = self.write(event, **fields)
        handle, scratch = tempfile.mkstemp(dir=self.run_dir, prefix=".end-")
        with os.fdopen(handle, "w") as file:
            json.dump(line, file)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the name exists: the first writer wins, and readers see it whole.
        with contextlib.suppress(FileExistsError):
            os.link(scratch, self.run_dir / END)
        Path(scratch).unlink()

    def stop_wished(self) -> str | None:
        """Why the run should stop, or None."""
        try:
            return (self.run_dir / STOP).read_text().strip() or "asked to stop"
        except FileNotFoundError:
            return None


def _printed(line: dict[str, Any], text: str) -> list[str]:
    """An event for the log, in parts where it is long: ranks share the log, and its collectors cut lines."""
    pieces = [text[begin : begin + PART_CHARACTERS] for begin in range(0, len(text), PART_CHARACTERS)]
    if len(pieces) == 1:
        return [f"{PREFIX}{text}"]
    name = f"{line['rank']}.{line['seq']}@{line['at']}"
    return [f"{PART_PREFIX}{name} {n}/{len(pieces)} {piece}" for n, piece in enumerate(pieces, 1)]


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null says that there is no such number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
