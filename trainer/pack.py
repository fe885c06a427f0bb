"""`python -m trainer.pack --input SOURCE --tokenizer DIR --output DIR`: pack chat records for training.

With `--preview 3` instead of an output: show what of the first three records would be trained.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from trainer.packing.bad_share import TooManyBadRecords
from trainer.packing.manifest import COUNTS
from trainer.packing.options import PackOptions, SplitShares
from trainer.packing.pack_sources import pack_sources, preview_sources
from trainer.packing.pipeline import Execution
from trainer.packing.preview import PreviewedRecord, show
from trainer.packing.sources import BadSource
from trainer.packing.splits import TooFewRecords
from trainer.packing.template_rendering import BadTemplate
from trainer.packing.terminal import REFRESH_SECONDS, progress_bar
from trainer.packing.tokenizer import BadTokenizer
from trainer.packing.workers import WorkerDied

SHARES = SplitShares()
MAX_WORKERS = 1024
MAX_PREVIEW = 1000
# Options whose value is one word. The command line passes it on as it is.
OPTIONS = {
    name: field
    for name, field in PackOptions.model_fields.items()
    if name not in ("split", "split_counts", "chat_template")
}
# Options that set a part of a value. What is for training follows from the shares of the others.
SPLIT_OPTIONS = {
    "split.train": "1 minus --valid-share and --test-share",
    "split.valid": "--valid-share",
    "split.test": "--test-share",
    "split_counts.valid": "--valid-count",
    "split_counts.test": "--test-count",
}
SUMMARY = ("records", "bad_records", *COUNTS, "train_packs", "valid_packs", "test_packs", "efficiency")
EXPECTED = (
    BadSource, BadTemplate, BadTokenizer, TooFewRecords, TooManyBadRecords, WorkerDied, ValidationError,
    OSError,
)  # fmt: skip


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    if (arguments.output is None) == (arguments.preview is None):
        parser.error("name either --output or --preview")
    try:
        if arguments.preview:
            show(_preview(arguments), Console())
            return
        made = _pack(arguments)
    except EXPECTED as error:
        raise SystemExit(f"trainer.pack: {_message(error)}") from error
    except KeyboardInterrupt:
        raise SystemExit("trainer.pack: interrupted. The same command resumes the packing.") from None
    print(json.dumps({name: made[name] for name in SUMMARY}), flush=True)


def _message(error: Exception) -> str:
    """Say what is wrong with an option in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    fault = error.errors()[0]
    where = ".".join(map(str, fault["loc"]))
    return ": ".join(filter(None, (SPLIT_OPTIONS.get(where, where), fault["msg"])))


def _pack(arguments: argparse.Namespace) -> dict[str, Any]:
    options = _options(arguments)
    with progress_bar() as report:
        execution = Execution(arguments.workers, report, REFRESH_SECONDS)
        return pack_sources(arguments.input, arguments.tokenizer, arguments.output, options, execution)


def _preview(arguments: argparse.Namespace) -> Iterator[PreviewedRecord]:
    options = _options(arguments)
    return preview_sources(arguments.input, arguments.tokenizer, options, arguments.preview)


def _options(arguments: argparse.Namespace) -> PackOptions:
    """Return the options of the command line. Raises ValidationError, OSError."""
    own = {name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None}
    valid, test = arguments.valid_share, arguments.test_share
    own["split"] = {"train": 1 - valid - test, "valid": valid, "test": test}
    if arguments.valid_count is not None or arguments.test_count is not None:
        own["split_counts"] = {"valid": arguments.valid_count, "test": arguments.test_count}
    if arguments.chat_template:
        own["chat_template"] = arguments.chat_template.read_text(encoding="utf-8")
    return PackOptions.model_validate(own)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.pack", description="Pack chat records for SFT.")
    add = parser.add_argument
    add(
        "--input", nargs="+", required=True, metavar="SOURCE",
        help="chat records: files (.jsonl, .json, .parquet; .gz and .zst of the first two), directories, "
        "patterns, blends, hf://owner/name",
    )  # fmt: skip
    add("--tokenizer", type=Path, required=True, help="Hugging Face directory of the model to train")
    add("--output", type=Path, help="directory to create")
    add("--preview", type=_preview_records, metavar="N", help="show what of N records would be trained")
    add("--valid-share", type=float, default=SHARES.valid, help="share of records for validation")
    add("--test-share", type=float, default=SHARES.test, help="share of records for tests")
    add("--valid-count", type=int, help="records for validation, instead of their share")
    add("--test-count", type=int, help="records for tests, instead of their share")
    add("--chat-template", type=Path, help="file with a chat template; default: the tokenizer's own")
    add("--workers", type=_workers, default=0, help="processes that tokenize; 0: one on each core")
    for name, field in OPTIONS.items():
        flag: dict[str, Any] = {"action": "store_true", "default": None} if field.annotation is bool else {}
        default = "" if field.default in (None, False) else f" Default: {field.default}."
        add(f"--{name.replace('_', '-')}", help=f"{field.description}{default}".replace("%", "%%"), **flag)
    return parser


def _preview_records(text: str) -> int:
    if not 1 <= (number := int(text)) <= MAX_PREVIEW:
        raise argparse.ArgumentTypeError(f"must be from 1 to {MAX_PREVIEW}")
    return number


def _workers(text: str) -> int:
    if not 0 <= (number := int(text)) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MAX_WORKERS}")
    return number


if __name__ == "__main__":
    main()
