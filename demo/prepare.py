"""`python -m demo.prepare DIR`: make the demo's records, model and packed data; existing ones are reused."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from demo import model, records

PACK_SIZE = 512
PACK_SECONDS = 3600
MIN_RECORDS = 1500


def prepare(directory: Path) -> None:
    """Make DIR/records.jsonl, DIR/model and DIR/packed if they are missing."""
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / "records.jsonl"
    once(source, _write_records)
    once(directory / "model", lambda path: model.make(source, path))
    once(directory / "packed", lambda path: pack(source, directory / "model", path, PACK_SIZE))


def pack(source: Path, tokenizer: Path, output: Path, pack_size: int, multiple: int = 1) -> None:
    """Pack records as users do, in a process without torch's threads, which a fork would lose."""
    what = ("--input", source, "--tokenizer", tokenizer, "--output", output)
    how = ("--pack-size", pack_size, "--pad-to-multiple", multiple, "--valid-share", 0.1, "--test-share", 0)
    command = [sys.executable, "-m", "trainer.pack", *map(str, (*what, *how))]
    subprocess.run(command, check=True, timeout=PACK_SECONDS)


def once(path: Path, make: Callable[[Path], None]) -> None:
    """Make a file or directory unless it exists, under a temporary name: an existing one is complete."""
    if path.exists():
        return
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=".making-"))
    try:
        make(scratch / path.name)
        (scratch / path.name).rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"made {path}", flush=True)


def _write_records(path: Path) -> None:
    number = records.write(path)
    if number < MIN_RECORDS:
        raise SystemExit(f"Only {number} docstrings were found; is Python's standard library complete?")
    print(f"{number} records", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded
    prepare(Path(sys.argv[1]).absolute())
