"""Files that a run writes into its directory."""

import json
from pathlib import Path
from typing import Any

from worker.db.models import Job
from worker.jobs import queries

AT = "2026-01-02T03:04:0{}.000000+00:00"


def line(seq: int = 0, **event: Any) -> bytes:
    return json.dumps({"seq": seq, "rank": 0, "at": AT.format(seq % 10), **event}).encode() + b"\n"


def step(number: int, **more: Any) -> bytes:
    return line(number, **{"event": "step", "step": number, "loss": 9.0 - number, **more})


def directory_of(job: Job) -> Path:
    return Path(queries.attempt_of(job).directory or "")


def write(job: Job, data: bytes) -> None:
    with (directory_of(job) / "events.jsonl").open("ab") as file:
        file.write(data)


def save(job: Job, iteration: int, content: bytes = b"x" * 10, *, into: Path | None = None) -> bytes:
    """Write a checkpoint, and return the event line that reports it with ten bytes."""
    path = (into or Path(job.config["checkpoint"]["save"])) / f"iter_{iteration:07d}"
    path.mkdir(exist_ok=True, parents=True)
    (path / "weights").write_bytes(content)
    files = [{"path": "weights", "bytes": 10}]
    return line(5, event="checkpoint", iteration=iteration, path=str(path), bytes=10, files=files)


def steps(job: Job) -> list[tuple[int, float | None]]:
    return [(row.step, row.data.get("loss")) for row in queries.metrics(job.id, "step", 0, None, 1000)]
