"""`python -m trainer.pack --input FILE --tokenizer DIR --output DIR`: pack chat records for training."""

import argparse
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer.packing.bad_share import BadRecords
from trainer.packing.chat_template import BadTemplate
from trainer.packing.chunks import Mask
from trainer.packing.files import pack_file
from trainer.packing.formats import Format
from trainer.packing.manifest import COUNTS
from trainer.packing.options import PackOptions, SplitCounts, SplitShares
from trainer.packing.pack import Work
from trainer.packing.packs import Algorithm
from trainer.packing.splits import TooFewRecords
from trainer.packing.terminal import REFRESH_SECONDS, progress_bar
from trainer.packing.tokenizer import BadTokenizer
from trainer.packing.workers import WorkerDied

VALID_SHARE = 0.1
SUMMARY = ("records", "bad_records", *COUNTS, "train_packs", "valid_packs", "test_packs", "efficiency")
EXPECTED = (BadRecords, BadTemplate, BadTokenizer, TooFewRecords, WorkerDied, ValidationError, OSError)


def main() -> None:
    arguments = _parser().parse_args()
    try:
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
    option = ".".join(map(str, fault["loc"])).replace("_", "-")
    return ": ".join(filter(None, (option and f"--{option}", fault["msg"])))


def _pack(arguments: argparse.Namespace) -> dict[str, Any]:
    options = _options(arguments)
    with progress_bar() as report:
        work = Work(arguments.workers, report, REFRESH_SECONDS)
        return pack_file(arguments.input, arguments.tokenizer, arguments.output, options, work)


def _options(arguments: argparse.Namespace) -> PackOptions:
    """Raises ValidationError."""
    own = {name: value for name, value in vars(arguments).items() if name in PackOptions.model_fields}
    if arguments.valid_count or arguments.test_count:
        own["split_counts"] = SplitCounts(valid=arguments.valid_count, test=arguments.test_count)
    valid, test = arguments.valid_share, arguments.test_share
    own["split"] = SplitShares(train=1 - valid - test, valid=valid, test=test)
    return PackOptions(**own)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.pack", description="Pack chat records for SFT.")
    add = parser.add_argument
    add("--input", type=Path, required=True, help="chat records, JSON lines")
    add("--tokenizer", type=Path, required=True, help="Hugging Face directory of the model to train")
    add("--output", type=Path, required=True, help="directory to create")
    add("--pack-size", type=int, default=4096, help="tokens of a pack; equals the job's seq_length")
    add(
        "--algorithm",
        choices=list(Algorithm),
        default=Algorithm.FIRST_FIT_SHUFFLE,
        help="how packs are filled",
    )
    add("--seed", type=int, default=0, help="of the order and of the splits")
    add("--valid-share", type=float, default=VALID_SHARE, help="share of records for validation")
    add("--test-share", type=float, default=0.0, help="share of records for tests")
    add("--valid-count", type=int, default=0, help="records for validation, instead of shares")
    add("--test-count", type=int, default=0, help="records for tests, instead of shares")
    add("--pad-to-multiple", type=int, default=1, help="pad sequences to a multiple of this")
    add("--context-parallel-size", type=int, default=1, help="of the training; sequences are padded for it")
    add("--tensor-parallel-size", type=int, default=1, help="of the training, with --sequence-parallel")
    add("--sequence-parallel", action="store_true", help="the training uses it; sequences are padded for it")
    add("--max-bad-share", type=float, default=0.01, help="largest share of bad records; more is an error")
    add("--format", type=Format, choices=list(Format), default=Format.AUTO, help="how records are written")
    add("--mask", type=Mask, choices=list(Mask), default=Mask.ASSISTANT, help="which tokens are trained")
    add("--max-doc-tokens", type=int, help="cut sequences to this length; default: to the pack size")
    add("--max-rows", type=int, help="read only so many records")
    add("--workers", type=int, default=0, help="processes that tokenize; 0: one on each core")
    return parser


if __name__ == "__main__":
    main()
