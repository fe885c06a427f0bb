"""The packed data that a config names: whether Bridge can train on it, and would train on what was meant."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer.config.training_config import TrainingConfig, is_local
from trainer.dataset import (
    BadPacking,
    Inspection,
    Limits,
    MissingPackedData,
    Packing,
    Shards,
    find_shards,
    inspect,
    read_packing,
)
from trainer.dataset.faults import Fault, Kind
from trainer.dataset.files import shown
from trainer.dataset.vocabulary import tokenizer_digest, vocab_size_of
from trainer.failures import FAILURES
from trainer.preflight.finding import LOOKED_AT_THERE, NOT_SEEN, Finding, Severity, finding, suggest

POINTER = "/dataset/nano3_packed_sft_dir"
BATCH_SIZE = "/train/global_batch_size"

# How long looking at data may take at a submission, and with every row of it.
SAMPLE_SECONDS = 10.0

MISSING = FAILURES["missing_packed_data"].recovery
MISMATCH = FAILURES["tokenizer_mismatch"].recovery
REPACK = "Pack the data again with data_prep/sft_packing (or `python -m trainer.pack`)."

# Kind of fault -> severity, code, what to do.
FAULTS: dict[Kind, tuple[Severity, str, str]] = {
    Kind.UNREADABLE: ("error", "bad_packed_data", f"Copy the file again, remove it, or: {REPACK}"),
    Kind.COLUMNS: (
        "error",
        "bad_packed_data",
        f"Each shard needs lists of integers named input_ids, loss_mask and seq_start_id. {REPACK}",
    ),
    Kind.EMPTY: ("error", "bad_packed_data", f"There is nothing to train on. {REPACK}"),
    Kind.ROWS: (
        "error",
        "bad_packed_data",
        "loss_mask (0 or 1) has to be as long as input_ids, and seq_start_id has to ascend from 0 inside "
        f"the pack. {REPACK}",
    ),
    Kind.TOO_LONG: (
        "error",
        "seq_length_mismatch",
        "Set seq_length to the pack_size that the data were packed with, or pack them again with this one.",
    ),
    Kind.UNPADDED: (
        "error",
        "seq_length_mismatch",
        "Pack the data with `--pad-to-multiple` of 2 x context_parallel_size, or lower the latter to 1.",
    ),
    Kind.VOCABULARY: ("error", "tokenizer_mismatch", MISMATCH),
    Kind.UNSEEN: ("unverified", "unseen_data", "The trainer looks at it again before it trains."),
}


@dataclass(frozen=True)
class Job:
    """What data have to fit; None: not known, so nothing is said about it."""

    seq_length: int | None = None
    global_batch_size: int | None = None
    hf_model_path: str | None = None
    validates: bool = True
    piece_multiple: int | None = None

    @property
    def model(self) -> Path | None:
        """The base model's directory, if it is one."""
        return Path(self.hf_model_path) if self.hf_model_path and is_local(self.hf_model_path) else None


@dataclass
class Report:
    """What was found out about a dataset, and what there is to say."""

    inspection: Inspection | None = None
    packing: Packing | None = None
    findings: list[Finding] = field(default_factory=list)


def check(
    config: TrainingConfig,
    *,
    global_batch_size: int | None = None,
    context_parallel_size: int = 1,
    files: bool = True,
) -> Report:
    """What a config's data are, and what there is to say about them.

    global_batch_size: what the run gets where `train` does not say it.
    files: whether they are seen from here.
    """
    directory = config.dataset.nano3_packed_sft_dir
    if directory is None:
        hint = f"Set inputs.packed_parquet. {MISSING}"
        unnamed = finding("error", "missing_packed_data", POINTER, "No packed data is named.", hint)
        return Report(findings=[unnamed])
    if not files:
        message = f"{shown(directory)} {NOT_SEEN}."
        return Report(findings=[finding("unverified", "unseen_data", POINTER, message, LOOKED_AT_THERE)])
    size = config.train.get("global_batch_size", global_batch_size)
    job = Job(
        seq_length=config.seq_length,
        global_batch_size=size if type(size) is int and _drops_last(config) else None,
        hf_model_path=config.hf_model_path,
        validates=config.validation.get("eval_iters") != 0,
        piece_multiple=2 * context_parallel_size if context_parallel_size > 1 else None,
    )
    return examine(Path(directory), job)


def _drops_last(config: TrainingConfig) -> bool:
    """Whether Bridge leaves an incomplete global batch out; else it fills it up."""
    extra = config.dataset.model_extra or {}
    return config.train.get("num_epochs") is None and extra.get("drop_last") is not False


def examine(path: Path, job: Job, *, full: bool = False, seconds: float = SAMPLE_SECONDS) -> Report:
    """Look at a dataset for a job. Nothing is raised: see trainer.dataset.inspect."""
    report = Report()
    try:
        shards = find_shards(path)
    except MissingPackedData as error:
        report.findings = [finding("error", "missing_packed_data", POINTER, shown(str(error)), MISSING)]
    except OSError as error:
        message = f"{shown(path)} cannot be seen from here: {error.strerror}."
        report.findings = [finding("unverified", "unseen_data", POINTER, message, FAULTS[Kind.UNSEEN][2])]
    else:
        _examine(shards, job, report, full=full, seconds=seconds)
    return report


def _examine(shards: Shards, job: Job, report: Report, *, full: bool, seconds: float) -> None:
    model_size = vocab_size_of(job.model) if job.model else None
    found = Inspection.of(shards)
    try:
        report.packing = read_packing(shards.directories, found.meter)
        unread = None
    except BadPacking as error:
        unread = str(error)
    noted = report.packing.vocab_size if report.packing else None
    limits = Limits(job.seq_length, model_size or noted, job.piece_multiple)
    inspect(shards, limits, found, full=full, seconds=seconds)
    report.inspection = found
    report.findings = [
        *_of_faults(found),
        *_of_rows(found, job),
        *_of_packing(report.packing, unread, job, model_size),
    ]


def _of_faults(found: Inspection) -> Iterator[Finding]:
    for fault in found.faults:
        yield _of_fault(fault)
    if found.tokens_read and not found.trained_tokens:
        message = f"loss_mask is 0 everywhere in the {found.rows_read} rows read: nothing would be trained."
        severity: Severity = "error" if found.rows_read == found.rows else "warning"
        yield finding(severity, "bad_packed_data", POINTER, message, REPACK)


def _of_fault(fault: Fault) -> Finding:
    severity, code, hint = FAULTS[fault.kind]
    return finding(severity, code, POINTER, str(fault), hint)


def _of_rows(found: Inspection, job: Job) -> Iterator[Finding]:
    """Fewer rows than a global batch are none."""
    size = job.global_batch_size
    if size is None or found.unread_shards:
        return
    for name in ("train", "valid") if job.validates else ("train",):
        rows = found.splits[name].rows if name in found.splits else 0
        if 0 < rows < size:
            message = f"The packed data for {name} has {rows} rows, fewer than one global batch of {size}."
            hint = "Pack more data, or lower train.global_batch_size."
            change = suggest("train.global_batch_size", size, 1 << (rows.bit_length() - 1))
            yield finding("error", "too_few_rows", BATCH_SIZE, message, hint, change=change)


# -- packing ---------------------------------------------------------------------------------------


def _of_packing(
    packing: Packing | None, unread: str | None, job: Job, model_size: int | None
) -> Iterator[Finding]:
    if packing is None:
        message = unread or "Nothing is noted beside the data about how they were packed."
        hint = "`python -m trainer.pack` notes tokenizer and pack size in metadata.json."
        yield finding("unverified", "unseen_packing", POINTER, message, hint)
        return
    size = packing.pack_size
    if size is not None and job.seq_length is not None and size != job.seq_length:
        message = f"The data were packed with pack_size {size}, but seq_length is {job.seq_length}."
        hint = f"Set seq_length={size}, or pack the data again with --pack-size {job.seq_length}."
        change = suggest("seq_length", job.seq_length, size)
        yield finding("error", "seq_length_mismatch", "/seq_length", message, hint, change=change)
    if job.hf_model_path is not None:
        yield from _of_tokenizer(packing, job, model_size)


def _of_tokenizer(packing: Packing, job: Job, model_size: int | None) -> Iterator[Finding]:
    model = shown(job.hf_model_path or "")
    named = packing.tokenizer or "a tokenizer that is not named"
    ours = tokenizer_digest(job.model) if job.model else None
    if ours and packing.tokenizer_sha256:
        if ours != packing.tokenizer_sha256:
            message = f"The data were packed with {named}, whose vocabulary is not that of {model}."
            yield finding("error", "tokenizer_mismatch", "/hf_model_path", message, MISMATCH)
    elif model_size and packing.vocab_size and packing.vocab_size > model_size:
        message = f"The data's tokenizer has {packing.vocab_size} entries, but {model} takes {model_size}."
        yield finding("error", "tokenizer_mismatch", "/hf_model_path", message, MISMATCH)
    elif packing.tokenizer != job.hf_model_path:
        message = f"The data were packed with {named}; whether {model} has the same tokenizer is not known."
        hint = "Make sure that it has, or pack the data with the tokenizer of the model."
        yield finding("unverified", "tokenizer_mismatch", "/hf_model_path", message, hint)
