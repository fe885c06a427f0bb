"""Packing in a process of its own, with a stand-in for the tokenizer.

Each byte of a record is a token, and all but the first are trained. Records are texts; some have a meaning:

bad REASON ...   cannot be packed
stop ...         is never tokenized, where the process is told to stop
die ...          kills the process that tokenizes it
done ...         must not be tokenized, where the process is told so
today            stands for the date that templates take for today
skip ...         is left out, as by used_in
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from trainer.packing import algorithms, batches, spill
from trainer.packing.bad_records import BadReason, BadRecord, RecordPlace
from trainer.packing.manifest import PackingInput, SourceRecord, TokenizerRecord
from trainer.packing.options import PackOptions
from trainer.packing.pipeline import Execution, pack
from trainer.packing.progress import PackingProgress
from trainer.packing.sources import RawRecord, SourceItem, UnreadableRecord

TOKENIZER = TokenizerRecord(
    tokenizer="bytes",
    tokenizer_sha256="0" * 64,
    vocab_size=256,
    chat_template_sha256=None,
    pad_id=0,
    backend_sha256="2" * 64,
    special_tokens_sha256="3" * 64,
)


@dataclass
class Packing:
    """What to pack, and how the process is disturbed."""

    texts: list[str]
    output: str
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 256
    shard: int = 20_000
    workers: int = 2
    stops: bool = False
    forbids_done: bool = False

    def start(self) -> "subprocess.Popen[str]":
        from tests.support.trainer_runs import PROJECT  # not in the process: it takes time to import

        command = [sys.executable, "-m", "tests.support.packing"]
        process = subprocess.Popen(
            command,
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(asdict(self)) + "\n")
        process.stdin.flush()
        return process

    def run(self) -> dict[str, Any]:
        """Return `manifest` and `progress`, or `error` and `message`."""
        out, err = self.start().communicate(timeout=60)
        assert out, err
        found: dict[str, Any] = json.loads(out)
        return found


@dataclass
class ByteTokenizer:
    """Makes a sequence of each text."""

    packing: Packing
    day: date
    cut: int = 0
    special_in_content: int = 0

    def __call__(self, data: bytes | dict[str, Any]) -> list[algorithms.TokenSequence]:
        assert isinstance(data, bytes)
        word, *more = data.decode().split()
        if word == "bad":
            raise BadRecord(BadReason(more[0]), "It is bad.")
        if word == "stop" and self.packing.stops:
            threading.Event().wait()
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "today":
            data = self.day.isoformat().encode()
        if word == "skip":
            return []
        if word == "done" and self.packing.forbids_done:
            raise AssertionError("a record was tokenized twice")
        return [algorithms.TokenSequence(list(data), [1] * (len(data) - 1) + [0])]


def _texts(texts: Sequence[str]) -> Iterator[SourceItem]:
    for number, text in enumerate(texts, start=1):
        place = RecordPlace("chats.jsonl", number)
        if text == "unreadable":
            yield UnreadableRecord(place, BadRecord(BadReason.NOT_UTF8, "It is not UTF-8."))
        else:
            yield RawRecord(place, text.encode())


def _pack(packing: Packing) -> dict[str, Any]:
    batches.BATCH_RECORDS, spill.SHARD_RECORDS = packing.batch, packing.shard
    source = SourceRecord(path="chats.jsonl", bytes=1, sha256="1" * 64)
    packing_input = PackingInput([source], TOKENIZER, PackOptions(**packing.options))
    seen: list[PackingProgress] = []
    execution = Execution(packing.workers, seen.append, every_seconds=0)
    made = pack(
        _texts(packing.texts),
        lambda day: ByteTokenizer(packing, day),
        packing_input,
        Path(packing.output),
        execution,
    )
    return {"manifest": made, "progress": [asdict(one) for one in seen]}


def main() -> None:
    packing = Packing(**json.loads(sys.stdin.readline()))
    try:
        result = _pack(packing)
    except (ValueError, OSError, RuntimeError) as error:
        result = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
