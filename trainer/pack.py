"""Packs chat records for training: `python -m trainer.pack --input FILE --tokenizer DIR --output DIR`.

Input: JSON lines, {"messages": [{"role": ..., "content": ...}, ...]}.
Output, in the layout of data_prep/sft_packing and the columns of Megatron-Bridge 0.6.2's packed parquet:

    DIR/splits/train/part-00000.parquet, DIR/splits/valid/part-00000.parquet
    DIR/metadata.json      how it was packed: pack_size, tokenizer, tokenizer_sha256, vocab_size, counts

    input_ids     list<int32>   the tokens of a pack's sequences, one after the other, at most pack_size
    loss_mask     list<int8>    1 where the *next* token is an assistant's: Bridge's packed mask is shifted
                                already (megatron/bridge/data/packing/algorithms.py, fill_packing_strategy)
    seq_start_id  list<int32>   where each sequence begins; the first is 0
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import track

from trainer.vocabulary import digest, vocabulary_of

VALID_SHARE = 0.1
ROWS_PER_SHARD = 10_000
# Packs that still have room; an old one that nothing fits into is closed.
OPEN_PACKS = 64


class BadRecord(ValueError):
    """A line of the input is not a chat record; says which and why."""


@dataclass
class Sequence:
    """One conversation as tokens. mask[i] is 1 where token i + 1 is an assistant's."""

    ids: list[int]
    mask: list[int]


@dataclass
class Pack:
    ids: list[int] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def add(self, sequence: Sequence) -> None:
        self.starts.append(len(self.ids))
        self.ids += sequence.ids
        self.mask += sequence.mask


def pack(
    source: Path,
    tokenizer_dir: Path,
    output: Path,
    pack_size: int,
    valid_share: float = VALID_SHARE,
    multiple: int = 1,
) -> None:
    """Pack the records of `source` into `output`, which appears whole or not at all.

    multiple: of tokens that each sequence has after Bridge has shifted its last one away: 2 x
        context_parallel_size, to train with context parallelism.

    Raises BadRecord, and FileExistsError where `output` exists.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; name a new directory or remove it.")
    tokenizer = _load_tokenizer(tokenizer_dir)
    fit = Fit(pack_size, multiple, tokenizer.eos_token_id or 0)
    train, valid, counts = _split(_sequences(source, tokenizer), fit, valid_share)
    output.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=output.parent, prefix=".packing-"))
    try:
        for name, sequences in (("train", train), ("valid", valid)):
            packs = list(first_fit(sequences, pack_size))
            _write_shards(packs, scratch / "splits" / name)
            counts[f"{name}_packs"] = len(packs)
        _write_metadata(scratch, tokenizer_dir, tokenizer, fit, counts)
        scratch.chmod(0o755)
        scratch.rename(output)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    print(json.dumps(counts), flush=True)


# -- reading ---------------------------------------------------------------------------------------


def _load_tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def _sequences(source: Path, tokenizer: Any) -> Iterator[Sequence]:
    lines = source.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(track(lines, description="Tokenizing"), start=1):
        if line.strip():
            try:
                yield tokenize(_messages(line), tokenizer)
            except BadRecord as error:
                raise BadRecord(f"{source}, line {number}: {error}") from error


def _messages(line: str) -> list[dict[str, str]]:
    try:
        messages = json.loads(line)["messages"]
        well_formed = all(isinstance(m["role"], str) and isinstance(m["content"], str) for m in messages)
    except (ValueError, KeyError, TypeError) as error:
        raise BadRecord('expected {"messages": [{"role": ..., "content": ...}, ...]}') from error
    if not well_formed or not any(m["role"] == "assistant" for m in messages):
        raise BadRecord("a record needs text messages, one of them the assistant's")
    return list(messages)


def tokenize(messages: list[dict[str, str]], tokenizer: Any) -> Sequence:
    """A conversation's tokens, and a mask of what the assistant said, its end token included.

    The template is rendered up to each assistant's turn. Raises BadRecord where the template writes
    earlier turns differently later on, so that the turns cannot be told apart.
    """
    ids = _render(messages, tokenizer)
    spoken = [0] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(messages[:index], tokenizer, add_generation_prompt=True)
        after = _render(messages[: index + 1], tokenizer)
        if ids[: len(after)] != after or after[: len(before)] != before:
            raise BadRecord("the tokenizer's chat template does not keep earlier turns as they were")
        spoken[len(before) : len(after)] = [1] * (len(after) - len(before))
    return Sequence(ids, [*spoken[1:], 0])


def _render(
    messages: list[dict[str, str]], tokenizer: Any, *, add_generation_prompt: bool = False
) -> list[int]:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt
    )
    return list(tokenizer.encode(text, add_special_tokens=False))


# -- packing ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """What a sequence is brought to."""

    pack_size: int
    multiple: int
    pad_id: int

    def __call__(self, sequence: Sequence) -> Sequence:
        """Cut to the pack size, then padded with what is not trained."""
        longest = (self.pack_size - 1) // self.multiple * self.multiple + 1
        ids, mask = sequence.ids[:longest], sequence.mask[:longest]
        mask[-1] = 0  # nothing follows it
        missing = (1 - len(ids)) % self.multiple
        return Sequence(ids + [self.pad_id] * missing, mask + [0] * missing)


def _split(
    sequences: Iterable[Sequence], fit: Fit, valid_share: float
) -> tuple[list[Sequence], list[Sequence], dict[str, int]]:
    """Every n-th sequence to validation; those longer than a pack are cut, and counted."""
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


def first_fit(sequences: Iterable[Sequence], pack_size: int) -> Iterator[Pack]:
    """Put each sequence into the first open pack that has room for it."""
    open_packs: list[Pack] = []
    for sequence in sequences:
        room = (pack for pack in open_packs if len(pack.ids) + len(sequence.ids) <= pack_size)
        target = next(room, None)
        if target is None:
            target = Pack()
            open_packs.append(target)
        target.add(sequence)
        if len(open_packs) > OPEN_PACKS:
            yield open_packs.pop(0)
    yield from open_packs


# -- writing ---------------------------------------------------------------------------------------


def _write_shards(packs: list[Pack], directory: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    directory.mkdir(parents=True)
    for number, begin in enumerate(range(0, len(packs), ROWS_PER_SHARD)):
        rows = packs[begin : begin + ROWS_PER_SHARD]
        columns = {
            "input_ids": pa.array([row.ids for row in rows], pa.list_(pa.int32())),
            "loss_mask": pa.array([row.mask for row in rows], pa.list_(pa.int8())),
            "seq_start_id": pa.array([row.starts for row in rows], pa.list_(pa.int32())),
        }
        pq.write_table(pa.table(columns), directory / f"part-{number:05d}.parquet", row_group_size=500)


def _write_metadata(
    directory: Path, tokenizer_dir: Path, tokenizer: Any, fit: Fit, counts: dict[str, int]
) -> None:
    # As the service reads it, which has no transformers; where it cannot, as the tokenizer says itself.
    vocabulary = vocabulary_of(tokenizer_dir) or tokenizer.get_vocab()
    metadata = {
        "pack_size": fit.pack_size,
        "pad_to_multiple": fit.multiple,
        "tokenizer": str(tokenizer_dir),
        "tokenizer_sha256": digest(vocabulary),
        "vocab_size": len(tokenizer),
        **counts,
    }
    (directory / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trainer.pack", description="Pack chat records for SFT.")
    parser.add_argument("--input", type=Path, required=True, help="chat records, JSON lines")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="Hugging Face directory of the model to train"
    )
    parser.add_argument("--output", type=Path, required=True, help="directory to make")
    parser.add_argument("--pack-size", type=int, default=4096, help="tokens of a pack; the job's seq_length")
    parser.add_argument(
        "--pad-to-multiple", type=int, default=1, help="2 x context_parallel_size, to train with it"
    )
    parser.add_argument("--valid-share", type=float, default=VALID_SHARE, help="share kept for validation")
    wanted = parser.parse_args()
    try:
        pack(
            wanted.input, wanted.tokenizer, wanted.output, wanted.pack_size, wanted.valid_share,
            wanted.pad_to_multiple,
        )  # fmt: skip
    except (BadRecord, OSError) as error:
        raise SystemExit(f"trainer.pack: {error}") from error


if __name__ == "__main__":
    main()
