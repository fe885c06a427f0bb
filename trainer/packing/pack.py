"""Pack chat records into a directory of packed data: tokenize, split, pack, write."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.packing.output import write_metadata, write_shards
from trainer.packing.packs import Fit, Sequence, first_fit
from trainer.packing.records import load_tokenizer, sequences_of

VALID_SHARE = 0.1


def pack(
    source: Path,
    tokenizer_dir: Path,
    output: Path,
    pack_size: int,
    valid_share: float = VALID_SHARE,
    multiple: int = 1,
) -> None:
    """Pack the records of `source` into `output`, which appears atomically and complete.

    multiple: pad each sequence so that its length, without the last token that Bridge drops, is a multiple
        of this; 2 x context_parallel_size for context parallelism.

    Raises BadRecord, and FileExistsError if `output` exists.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists. Name a new directory, or remove this one.")
    tokenizer = load_tokenizer(tokenizer_dir)
    fit = Fit(pack_size, multiple, tokenizer.eos_token_id or 0)
    train, valid, counts = _split(sequences_of(source, tokenizer), fit, valid_share)
    with _appearing(output) as scratch:
        for name, sequences in (("train", train), ("valid", valid)):
            packs = list(first_fit(sequences, pack_size))
            write_shards(packs, scratch / "splits" / name)
            counts[f"{name}_packs"] = len(packs)
        write_metadata(scratch, tokenizer_dir, tokenizer, fit, counts)
    print(json.dumps(counts), flush=True)


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A directory to write into, which appears complete under its name, or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=output.parent, prefix=".packing-"))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(output)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _split(
    sequences: Iterable[Sequence], fit: Fit, valid_share: float
) -> tuple[list[Sequence], list[Sequence], dict[str, int]]:
    """Assign every n-th sequence to validation. Truncate sequences longer than a pack, and count them."""
    every = round(1 / valid_share) if valid_share > 0 else 0
    parts: tuple[list[Sequence], list[Sequence]] = ([], [])
    counts = {"records": 0, "truncated": 0, "tokens": 0, "trained_tokens": 0}
    for sequence in sequences:
        fitted = fit(sequence)
        counts["truncated"] += len(sequence.ids) > len(fitted.ids)
        counts["tokens"] += len(fitted.ids)
        counts["trained_tokens"] += sum(fitted.mask)
        parts[every > 0 and counts["records"] % every == every - 1].append(fitted)
        counts["records"] += 1
    return *parts, counts
