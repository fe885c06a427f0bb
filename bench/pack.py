"""Measure packing beside `datasets.map` with the same tokenizer and processes: `python -m bench.pack`.

Both run in turn, in the trainer's environment (SFT_TRAINER_PYTHON). The rate of packing is that of its
first phase: read, render, mask, tokenize, spill. `datasets.map` renders and tokenizes. Memory is the
proportional set size (PSS) of all processes together, so that what they share counts once.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

PROJECT = Path(__file__).resolve().parents[1]
PYTHON = os.environ.get("SFT_TRAINER_PYTHON", str(PROJECT / ".venv-trainer" / "bin" / "python"))
SAMPLE_SECONDS = 0.2
LIMIT_SECONDS = 4 * 3600
WORDS = 4000
QUIET = {
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}  # fmt: skip

PACK = """
import json, sys
from pathlib import Path
from trainer.packing.options import PackOptions
from trainer.packing.pipeline import Execution
from trainer.packing.pack_sources import pack_sources
source, tokenizer, output, workers = sys.argv[1:]
seen = []
execution = Execution(int(workers), seen.append)
pack_sources([source], Path(tokenizer), Path(output), PackOptions(), execution)
rate = [one for one in seen if one.phase == "tokenize"][-1].records_per_second
print(json.dumps({"records_per_second": rate}))
"""

MAP = """
import json, sys, time
from datasets import load_dataset
from transformers import AutoTokenizer
source, directory, cache, workers = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(directory)

def encode(batch):
    texts = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
    return {"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]}

records = load_dataset("json", data_files=source, split="train", cache_dir=cache)
started = time.perf_counter()
records.map(encode, batched=True, num_proc=int(workers), remove_columns=records.column_names)
print(json.dumps({"records_per_second": len(records) / (time.perf_counter() - started)}))
"""

TOKENIZER = """
import sys
from pathlib import Path
from demo.model import make_tokenizer
make_tokenizer(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def make_records(path: Path, number: int) -> None:
    """Write chats of one to three turns with some hundred words."""
    chance = random.Random(0)  # noqa: S311
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(WORDS)]
    with path.open("w") as file:
        for _ in range(number):
            turns = [chance.choices(words, k=chance.randint(5, 150)) for _ in range(2 * chance.randint(1, 3))]
            messages = [
                {"role": ("user", "assistant")[place % 2], "content": " ".join(turn)}
                for place, turn in enumerate(turns)
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def measured(program: str, *arguments: Path | int) -> dict[str, Any]:
    """Run a program, and return what it prints, with its seconds and the peak of its memory in MiB."""
    command = [PYTHON, "-c", program, *map(str, arguments)]
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(
        command, cwd=PROJECT, env=os.environ | QUIET, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(SAMPLE_SECONDS)
            if time.perf_counter() - started > LIMIT_SECONDS:
                process.kill()
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"a measured program ended with {process.returncode}")
    seconds = time.perf_counter() - started
    return {**(json.loads(lines[-1]) if lines else {}), "seconds": seconds, "peak_mib": peak >> 10}


def memory(pid: int) -> int:
    """Return the PSS of a process and of those below it, in KiB."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        main = psutil.Process(pid)
        for process in (main, *main.children(recursive=True)):
            total += _pss(process.pid)
    return total


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def rounds(directory: Path, arguments: argparse.Namespace) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Measure packing and `datasets.map` in turn."""
    source, tokenizer = directory / "chats.jsonl", arguments.tokenizer or directory / "tokenizer"
    make_records(source, arguments.records)
    if arguments.tokenizer is None:
        measured(TOKENIZER, source, tokenizer)
    for number in range(arguments.rounds):
        ours = measured(PACK, source, tokenizer, directory / f"packed-{number}", arguments.workers)
        theirs = measured(MAP, source, tokenizer, directory / f"cache-{number}", arguments.workers)
        yield ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.pack")
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--tokenizer", type=Path, help="Hugging Face directory; default: one that is made")
    arguments = parser.parse_args()
    table = Table("ROUND", "PACK rec/s", "MAP rec/s", "RATIO", "PACK s", "PACK MiB", "MAP MiB")
    ratios = []
    with tempfile.TemporaryDirectory() as directory:
        for number, (ours, theirs) in enumerate(rounds(Path(directory), arguments), start=1):
            ratios.append(ours["records_per_second"] / theirs["records_per_second"])
            table.add_row(
                str(number), f"{ours['records_per_second']:,.0f}", f"{theirs['records_per_second']:,.0f}",
                f"{ratios[-1]:.2f}", f"{ours['seconds']:.1f}", f"{ours['peak_mib']:,}",
                f"{theirs['peak_mib']:,}",
            )  # fmt: skip
    Console().print(table)
    Console().print(
        f"{arguments.records:,} records, {arguments.workers} processes, median ratio {median(ratios):.2f}"
    )


if __name__ == "__main__":
    main()
