"""`python -m trainer.pack --input FILE --tokenizer DIR --output DIR`: pack chat records for training."""

import argparse
from pathlib import Path

from trainer.packing.pack import VALID_SHARE, pack
from trainer.packing.records import BadRecord


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.pack", description="Pack chat records for SFT.")
    parser.add_argument("--input", type=Path, required=True, help="chat records, JSON lines")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="Hugging Face directory of the model to train"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to create")
    parser.add_argument(
        "--pack-size", type=int, default=4096, help="tokens of a pack; equals the job's seq_length"
    )
    parser.add_argument(
        "--pad-to-multiple", type=int, default=1, help="2 x context_parallel_size, for context parallelism"
    )
    parser.add_argument(
        "--valid-share", type=float, default=VALID_SHARE, help="share of records for validation"
    )
    options = parser.parse_args()
    try:
        pack(
            options.input, options.tokenizer, options.output, options.pack_size, options.valid_share,
            options.pad_to_multiple,
        )  # fmt: skip
    except (BadRecord, OSError) as error:
        raise SystemExit(f"trainer.pack: {error}") from error


if __name__ == "__main__":
    main()
