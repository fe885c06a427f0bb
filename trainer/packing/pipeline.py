"""Pack records into a directory of packed data: tokenize, spill, split, pack, write."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.packing import manifest
from trainer.packing.algorithms import packs_of
from trainer.packing.bad_share import TooManyBadRecords, require_good
from trainer.packing.batches import RecordTokenizer, batches_of
from trainer.packing.manifest import PackingInput
from trainer.packing.output import write_split
from trainer.packing.progress import EVERY_SECONDS, PackingPhase, Report, Reporter, ignore
from trainer.packing.scratch import output_lock, scratch_of
from trainer.packing.sources import SourceItem
from trainer.packing.spill import PROGRESS, Spill, Spilled
from trainer.packing.splits import TooFewRecords, assign, holdout_sizes, sequences_of_splits
from trainer.packing.workers import cores, tokenize_all

TokenizerOn = Callable[[date], RecordTokenizer]


@dataclass(frozen=True)
class Execution:
    """How packing is done. The output does not depend on it."""

    workers: int = 0
    """Processes that tokenize; 0 for one on each core."""
    report: Report = ignore
    every_seconds: float = EVERY_SECONDS
    """Time between two reports, in seconds."""


DEFAULT_EXECUTION = Execution()


def pack(
    records: Iterable[SourceItem],
    tokenizer_on: TokenizerOn,
    packing_input: PackingInput,
    output: Path,
    execution: Execution = DEFAULT_EXECUTION,
    share_read: Callable[[], float | None] = lambda: None,
) -> dict[str, Any]:
    """Pack records into `output`, which appears atomically and complete, and return the manifest.

    A packing that was interrupted resumes when it is called with an equal input again.

    tokenizer_on: returns the tokenizer whose templates take a date for today.
    share_read: the share of the sources that was read, from 0 to 1; None if it is not known.

    Raises TooManyBadRecords; TooFewRecords; FileExistsError if `output` exists; OutputInUse; WorkerDied;
    OSError.
    """
    require_absent(output)
    with output_lock(output):
        require_absent(output)
        with _scratch(output, packing_input) as scratch:
            spill = _tokenized(records, tokenizer_on, packing_input, scratch, execution, share_read)
            counts, most = spill.counts, packing_input.options.max_bad_share
            require_good(spill.records, counts["filtered"], counts["sequences"], spill.bad, most)
            made = _written(spill, packing_input, scratch, execution)
            (scratch / "output").rename(output)
    return made


def require_absent(output: Path) -> None:
    """Raise FileExistsError if there is something at the path of an output."""
    if os.path.lexists(output):
        raise FileExistsError(f"{output} exists. Name a new directory, or remove this one.")


@contextmanager
def _scratch(output: Path, packing_input: PackingInput) -> Iterator[Path]:
    """Keep the scratch directory only for an interrupted packing that can resume."""
    scratch = scratch_of(output, packing_input.as_dict())
    try:
        yield scratch
    except (TooManyBadRecords, TooFewRecords):
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    except BaseException:
        if not (scratch / PROGRESS).exists():
            shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def _tokenized(
    records: Iterable[SourceItem],
    tokenizer_on: TokenizerOn,
    packing_input: PackingInput,
    scratch: Path,
    execution: Execution,
    share_read: Callable[[], float | None],
) -> Spill:
    """Spill the sequences of all records, and return the complete spill, closed."""
    fit = packing_input.options.fit(packing_input.tokenizer.pad_id)
    with Spill(scratch, packing_input.options.date) as spill:
        if spill.complete:
            return spill
        tokenizer = tokenizer_on(spill.day)
        reporter = Reporter(
            PackingPhase.TOKENIZE,
            execution.report,
            execution.every_seconds,
            spill.records,
            spill.counts["tokens"],
        )
        remaining = islice(records, spill.records, packing_input.options.max_rows)
        for batch in tokenize_all(batches_of(remaining), tokenizer, fit, execution.workers or cores()):
            spill.add(batch)
            reporter.update(spill.records, spill.counts["tokens"], share_read())
        spill.finish()
        reporter.update(spill.records, spill.counts["tokens"], 1.0, last=True)
        return spill


def _written(
    spill: Spill, packing_input: PackingInput, scratch: Path, execution: Execution
) -> dict[str, Any]:
    """Write the complete output to the scratch directory, and return the manifest."""
    output = scratch / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    with Spilled(scratch) as spilled:
        packs = _write_splits(spilled, spill, packing_input, output, execution)
    made = manifest.manifest_of(packing_input, spill, packs)
    manifest.write(made, output)
    return made


def _write_splits(
    spilled: Spilled, spill: Spill, packing_input: PackingInput, output: Path, execution: Execution
) -> dict[str, int]:
    options, good = packing_input.options, spill.counts["packed_records"]
    splits = assign(good, *holdout_sizes(options, good), options.seed)
    order = sequences_of_splits((record for record, _ in spilled.entries()), splits)
    reporter = Reporter(PackingPhase.WRITE, execution.report, execution.every_seconds, 0, 0)
    written, done = dict.fromkeys(order, 0), 0
    for name, sequences in order.items():
        packs = packs_of(sequences, spilled.length, options.pack_size, options.algorithm, options.seed)
        for group in write_split(packs, spilled, output / "splits" / name, options.pack_size):
            written[name] += len(group)
            done += sum(map(len, group))
            share = done / len(spilled)
            reporter.update(round(share * spill.records), round(share * spill.counts["tokens"]), share)
    reporter.update(spill.records, spill.counts["tokens"], 1.0, last=True)
    return written
