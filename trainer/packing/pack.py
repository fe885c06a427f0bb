"""Pack records into a directory of packed data: tokenize, spill, split, pack, write."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.packing import manifest
from trainer.packing.bad_share import BadRecords, require_good
from trainer.packing.batches import Maker, RawRecords, batches_of
from trainer.packing.manifest import Subject
from trainer.packing.output import write_split
from trainer.packing.packs import Fit, packs_of
from trainer.packing.progress import EVERY_SECONDS, PackingPhase, Report, Reporter, ignore
from trainer.packing.scratch import scratch_of, sole_packer
from trainer.packing.spill import PROGRESS, Spill, Spilled
from trainer.packing.splits import TooFewRecords, assign, held_back, sequences_of_splits
from trainer.packing.workers import cores, tokenize_all


@dataclass(frozen=True)
class Work:
    """How packing is done. The output does not depend on it."""

    workers: int = 0
    """Processes that tokenize; 0 for one on each core."""
    report: Report = ignore
    every_seconds: float = EVERY_SECONDS
    """Time between two reports, in seconds."""


AS_USUAL = Work()


def pack(
    records: RawRecords,
    maker: Maker,
    subject: Subject,
    output: Path,
    work: Work = AS_USUAL,
    share_read: Callable[[], float | None] = lambda: None,
) -> dict[str, Any]:
    """Pack records into `output`, which appears atomically and complete, and return the manifest.

    A packing that was interrupted resumes when it is called with an equal subject again.

    share_read: the share of the sources that was read, from 0 to 1; None if it is not known.

    Raises BadRecords; TooFewRecords; FileExistsError if `output` exists; OutputInUse; WorkerDied; OSError.
    """
    _require_absent(output)
    with sole_packer(output):
        _require_absent(output)
        with _scratch(output, subject) as scratch:
            spill = _tokenized(records, maker, subject, scratch, work, share_read)
            require_good(spill.records, spill.counts["sequences"], spill.bad, subject.options.max_bad_share)
            made = _written(spill, subject, scratch, work)
            (scratch / "output").rename(output)
    return made


def _require_absent(output: Path) -> None:
    if os.path.lexists(output):
        raise FileExistsError(f"{output} exists. Name a new directory, or remove this one.")


@contextmanager
def _scratch(output: Path, subject: Subject) -> Iterator[Path]:
    """Keep the scratch directory only for an interrupted packing that can resume."""
    scratch = scratch_of(output, subject.as_dict())
    try:
        yield scratch
    except (BadRecords, TooFewRecords):
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    except BaseException:
        if not (scratch / PROGRESS).exists():
            shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch, ignore_errors=True)


def _tokenized(
    records: RawRecords,
    maker: Maker,
    subject: Subject,
    scratch: Path,
    work: Work,
    share_read: Callable[[], float | None],
) -> Spill:
    """Spill the sequences of all records, and return the complete spill, closed."""
    fit = Fit(subject.options.pack_size, subject.options.multiple, subject.tokenizer.pad_id)
    with Spill(scratch) as spill:
        if spill.complete:
            return spill
        reporter = Reporter(
            PackingPhase.TOKENIZE, work.report, work.every_seconds, spill.records, spill.counts["tokens"]
        )
        remaining = islice(records, spill.records, subject.options.max_rows)
        for batch in tokenize_all(batches_of(remaining), maker, fit, work.workers or cores()):
            spill.add(batch)
            reporter.update(spill.records, spill.counts["tokens"], share_read())
        spill.finish()
        reporter.update(spill.records, spill.counts["tokens"], 1.0, last=True)
        return spill


def _written(spill: Spill, subject: Subject, scratch: Path, work: Work) -> dict[str, Any]:
    """Write the complete output to the scratch directory, and return the manifest."""
    output = scratch / "output"
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    with Spilled(scratch) as spilled:
        packs = _write_splits(spilled, spill, subject, output, work)
    made = manifest.manifest_of(subject, spill.records, spill.counts, spill.bad, packs)
    manifest.write(made, output)
    return made


def _write_splits(
    spilled: Spilled, spill: Spill, subject: Subject, output: Path, work: Work
) -> dict[str, int]:
    options, good = subject.options, spill.counts["packed_records"]
    splits = assign(good, *held_back(options, good), options.seed)
    order = sequences_of_splits((record for record, _ in spilled.entries()), splits)
    reporter = Reporter(PackingPhase.WRITE, work.report, work.every_seconds, 0, 0)
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
