"""Writes the events of one rank: lines in events.jsonl and on stdout, and the end marker. No torch."""

import contextlib
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainer.events import ENVELOPE, PART_CHARACTERS, PART_PREFIX, PREFIX, VERSION, Ending, RunEvent
from trainer.run_layout import RunLayout

STDOUT = 1


class EventWriter:
    """Writes the event lines of one rank to the run directory and to stdout."""

    def __init__(self, directory: Path, rank: int) -> None:
        self.layout = RunLayout(directory)
        self.rank = rank
        self._seq = 0

    def write(self, event: RunEvent) -> dict[str, Any]:
        """Append one event and return its line. The line is complete or absent: it is one write."""
        line = self._line(event)
        text = json.dumps(line, allow_nan=False)
        descriptor = os.open(self.layout.events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, text.encode() + b"\n")
        finally:
            os.close(descriptor)
        sys.stdout.flush()
        for printed in _printed(line, text):
            # Unbuffered, print() writes text and newline apart, and other ranks write into the same pipe.
            os.write(STDOUT, f"{printed}\n".encode())
        return line

    def _line(self, event: RunEvent) -> dict[str, Any]:
        """The event in its envelope; fields that were not set are left out."""
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        envelope = {"event": event.event, "version": VERSION, "seq": self._seq, "rank": self.rank, "at": at}
        self._seq += 1
        return {**envelope, **event.model_dump(mode="json", exclude=ENVELOPE, exclude_unset=True)}

    def end(self, event: Ending) -> None:
        """Write the last event, and the end marker unless another rank has done so."""
        line = self.write(event)
        handle, scratch = tempfile.mkstemp(dir=self.layout.directory, prefix=".end-")
        with os.fdopen(handle, "w") as file:
            json.dump(line, file)
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the name exists: the first writer wins, and readers see the marker complete.
        with contextlib.suppress(FileExistsError):
            os.link(scratch, self.layout.end)
        Path(scratch).unlink()

    def stop_reason(self) -> str | None:
        """Return why the run should stop, or None."""
        try:
            return self.layout.stop.read_text().strip() or "asked to stop"
        except FileNotFoundError:
            return None


def _printed(line: dict[str, Any], text: str) -> list[str]:
    """An event for the log, in parts where it is long: ranks share the log, and log collectors cut lines."""
    pieces = [text[begin : begin + PART_CHARACTERS] for begin in range(0, len(text), PART_CHARACTERS)]
    if len(pieces) == 1:
        return [f"{PREFIX}{text}"]
    name = f"{line['rank']}.{line['seq']}@{line['at']}"
    return [f"{PART_PREFIX}{name} {n}/{len(pieces)} {piece}" for n, piece in enumerate(pieces, 1)]
