"""Measure time, memory and bytes of the inspection of packed data: `python -m bench.inspect [--shards 1000]`.

Makes shards of random tokens in a temporary directory, and inspects them in separate processes.
"""

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from trainer.preflight.data import DataNeeds, examine

VOCABULARY = 131_072
DISTINCT_SHARDS = 8


def make(directory: Path, shards: int, rows: int, tokens: int) -> None:
    """Make splits/train with shards: DISTINCT_SHARDS different ones, the others are copies."""
    train = directory / "splits" / "train"
    train.mkdir(parents=True)
    for number in range(min(DISTINCT_SHARDS, shards)):
        pq.write_table(_table(rows, tokens), train / f"part-{number:05}.parquet")
    for number in range(DISTINCT_SHARDS, shards):
        shutil.copyfile(
            train / f"part-{number % DISTINCT_SHARDS:05}.parquet", train / f"part-{number:05}.parquet"
        )


def _table(rows: int, tokens: int) -> Any:
    ids = pa.array(random.choices(range(VOCABULARY), k=rows * tokens), pa.int32())  # noqa: S311
    mask = pa.array((place % 3 > 0 for place in range(rows * tokens)), pa.bool_())
    ends = pa.array(range(0, rows * tokens + 1, tokens), pa.int32())
    starts = pa.array([[0, tokens // 2]] * rows, pa.list_(pa.int32()))
    return pa.table(
        {
            "input_ids": pa.ListArray.from_arrays(ends, ids),
            "loss_mask": pa.ListArray.from_arrays(ends, mask.cast(pa.int8())),
            "seq_start_id": starts,
        }
    )


def measure(path: str, mode: str) -> None:
    """Inspect once in this fresh process, and print the cost as JSON."""
    started = time.perf_counter()
    report = examine(Path(path), DataNeeds(seq_length=1 << 20), full=mode == "full", seconds=3600)
    seconds = time.perf_counter() - started
    assert report.inspection is not None
    found = report.inspection
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    seen = {"shards": found.splits["train"].shards, "rows": found.rows, "rows_read": found.rows_read}
    errors = sum(finding.severity == "error" for finding in report.findings)
    figures = {"seconds": seconds, "peak_mib": peak, "mib_read": found.meter.bytes_read / 2**20}
    print(json.dumps({**seen, **figures, "errors": errors}))


def _measured(path: Path) -> Iterator[tuple[str, ...]]:
    for mode in ("sample", "full"):
        command = [sys.executable, "-m", "bench.inspect", "--measure", mode, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
        found = json.loads(done.stdout)
        yield (
            mode, f"{found['shards']:,}", f"{found['rows_read']:,} of {found['rows']:,}",
            f"{found['seconds']:.2f}", f"{found['peak_mib']}", f"{found['mib_read']:,.1f}",
            str(found["errors"]),
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.inspect")
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=32, help="packs per shard")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens per pack")
    parser.add_argument("--measure", nargs=2, metavar=("HOW", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        mode, path = arguments.measure
        return measure(path, mode)
    with tempfile.TemporaryDirectory() as directory:
        make(Path(directory), arguments.shards, arguments.rows, arguments.tokens)
        table = Table("PASS", "SHARDS", "ROWS READ", "SECONDS", "PEAK MiB", "MiB READ", "ERRORS")
        for row in _measured(Path(directory)):
            table.add_row(*row)
    return Console().print(table)


if __name__ == "__main__":
    main()
