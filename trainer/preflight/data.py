"""Check the packed data of a config: Bridge can train on it, and it fits model, tokenizer and seq_length."""

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
from trainer.dataset.chat_templates import templates_digest, templates_of
from trainer.dataset.faults import DataFault, FaultKind
from trainer.dataset.vocabulary import tokenizer_digest, vocab_size_of
from trainer.failures import FAILURES
from trainer.path_roots import OutsideRoots
from trainer.preflight import links, masks
from trainer.preflight.finding import INSPECTED_THERE, ON_CLUSTER_ONLY, Finding, Severity, finding, suggest
from trainer.quoting import printable

POINTER = "/dataset/nano3_packed_sft_dir"
VALIDATION = "/dataset/packed_val_data_path"
BATCH_SIZE = "/train/global_batch_size"

# Time limit of inspecting a sample of the data, as at a submission.
SAMPLE_SECONDS = 10.0

MISSING = FAILURES["missing_packed_data"].recovery
MISMATCH = FAILURES["tokenizer_mismatch"].recovery
REPACK = "Pack the data again with data_prep/sft_packing (or `python -m trainer.pack`)."

# Kind of fault -> severity, code, hint.
FAULTS: dict[FaultKind, tuple[Severity, str, str]] = {
    FaultKind.UNREADABLE: ("error", "bad_packed_data", f"Copy the file again, remove it, or: {REPACK}"),
    FaultKind.COLUMNS: (
        "error",
        "bad_packed_data",
        f"Each shard needs lists of integers named input_ids, loss_mask and seq_start_id. {REPACK}",
    ),
    FaultKind.EMPTY: ("error", "bad_packed_data", f"There is nothing to train on. {REPACK}"),
    FaultKind.ROWS: (
        "error",
        "bad_packed_data",
        "loss_mask (0 or 1) must be as long as input_ids, and seq_start_id must ascend from 0 inside "
        f"the pack. {REPACK}",
    ),
    FaultKind.TOO_LONG: (
        "error",
        "seq_length_mismatch",
        "Set seq_length to the pack_size of the data, or pack the data again with this seq_length.",
    ),
    FaultKind.UNPADDED: (
        "error",
        "seq_length_mismatch",
        "Pack the data with `--context-parallel-size` of the job, or set that size to 1.",
    ),
    FaultKind.VOCABULARY: ("error", "tokenizer_mismatch", MISMATCH),
    FaultKind.NOT_INSPECTED: (
        "unverified",
        "unseen_data",
        "The trainer inspects the data again before it trains.",
    ),
}


@dataclass(frozen=True)
class DataNeeds:
    """What the data must fit; None if unknown, then it is not checked."""

    seq_length: int | None = None
    global_batch_size: int | None = None
    hf_model_path: str | None = None
    validates: bool = True
    validation: Path | None = None
    """Files for validation that are not beside those for training."""
    piece_multiple: int | None = None

    @property
    def model(self) -> Path | None:
        """The base model's directory; None if the model is not a local directory."""
        return Path(self.hf_model_path) if self.hf_model_path and is_local(self.hf_model_path) else None


@dataclass
class DatasetReport:
    """Results of examining a dataset."""

    inspection: Inspection | None = None
    packing: Packing | None = None
    findings: list[Finding] = field(default_factory=list)


def check(
    config: TrainingConfig,
    *,
    global_batch_size: int | None = None,
    context_parallel_size: int = 1,
    files: bool = True,
    seconds: float = SAMPLE_SECONDS,
) -> DatasetReport:
    """Examine the data of a config.

    global_batch_size: size that the run gets if `train` does not set it.
    files: whether this machine can read the data.
    """
    directory = config.dataset.nano3_packed_sft_dir
    if directory is None:
        hint = f"Set inputs.packed_parquet. {MISSING}"
        unnamed = finding("error", "missing_packed_data", POINTER, "No packed data is named.", hint)
        return DatasetReport(findings=[unnamed])
    if not files:
        message = f"{printable(directory)} {ON_CLUSTER_ONLY}."
        return DatasetReport(
            findings=[finding("unverified", "unseen_data", POINTER, message, INSPECTED_THERE)]
        )
    needs = _needs_of(config, global_batch_size, context_parallel_size)
    return examine(Path(directory), needs, seconds=seconds)


def _needs_of(config: TrainingConfig, global_batch_size: int | None, context_parallel_size: int) -> DataNeeds:
    size = config.train.get("global_batch_size", global_batch_size)
    return DataNeeds(
        seq_length=config.seq_length,
        global_batch_size=size if type(size) is int and _drops_last(config) else None,
        hf_model_path=config.hf_model_path,
        validates=config.validation.get("eval_iters") != 0,
        validation=Path(config.dataset.packed_val_data_path) if config.dataset.packed_val_data_path else None,
        piece_multiple=2 * context_parallel_size if context_parallel_size > 1 else None,
    )


def _drops_last(config: TrainingConfig) -> bool:
    """Whether Bridge drops an incomplete global batch; else it fills the batch."""
    extra = config.dataset.model_extra or {}
    return config.train.get("num_epochs") is None and extra.get("drop_last") is not False


def examine(
    path: Path, needs: DataNeeds, *, full: bool = False, seconds: float = SAMPLE_SECONDS
) -> DatasetReport:
    """Inspect a dataset and check that it fits. Errors become findings: see trainer.dataset.inspect."""
    report = DatasetReport()
    named, where = path, POINTER
    try:
        shards = find_shards(path)
        if needs.validation:
            named, where = needs.validation, VALIDATION
            shards = find_shards(path, needs.validation)
        _examine(shards, needs, report, full=full, seconds=seconds)
    except MissingPackedData as error:
        report.findings = [finding("error", "missing_packed_data", where, printable(str(error)), MISSING)]
    except OutsideRoots as error:
        report.findings = [links.outside(where, error.filename)]
    except OSError as error:
        message = f"{printable(named)} cannot be read: {error.strerror}."
        hint = FAULTS[FaultKind.NOT_INSPECTED][2]
        report.findings = [finding("unverified", "unseen_data", where, message, hint)]
    return report


def _examine(shards: Shards, needs: DataNeeds, report: DatasetReport, *, full: bool, seconds: float) -> None:
    model_size = vocab_size_of(needs.model) if needs.model else None
    found = Inspection.of(shards)
    try:
        report.packing = read_packing(shards.directories, found.meter)
        unreadable = None
    except BadPacking as error:
        unreadable = str(error)
    recorded_size = report.packing.vocab_size if report.packing else None
    limits = Limits(needs.seq_length, model_size or recorded_size, needs.piece_multiple)
    inspect(shards, limits, found, full=full, seconds=seconds)
    report.inspection = found
    report.findings = [
        *_fault_findings(found),
        *masks.check(found, POINTER, report.packing.mask if report.packing else None),
        *_row_findings(found, needs),
        *_packing_findings(report.packing, unreadable, needs, model_size),
    ]


def _fault_findings(found: Inspection) -> Iterator[Finding]:
    for fault in found.faults:
        yield _fault_finding(fault)


def _fault_finding(fault: DataFault) -> Finding:
    severity, code, hint = FAULTS[fault.kind]
    return finding(severity, code, POINTER, str(fault), hint)


def _row_findings(found: Inspection, needs: DataNeeds) -> Iterator[Finding]:
    """Reject a split with fewer rows than a global batch: Bridge would drop all of them."""
    size = needs.global_batch_size
    if size is None or found.unread_shards:
        return
    for name in ("train", "valid") if needs.validates else ("train",):
        rows = found.splits[name].rows if name in found.splits else 0
        if 0 < rows < size:
            message = f"The packed data for {name} has {rows} rows, fewer than one global batch of {size}."
            hint = "Pack more data, or lower train.global_batch_size."
            change = suggest("train.global_batch_size", size, 1 << (rows.bit_length() - 1))
            yield finding("error", "too_few_rows", BATCH_SIZE, message, hint, change=change)


# -- packing ---------------------------------------------------------------------------------------


def _packing_findings(
    packing: Packing | None, unreadable: str | None, needs: DataNeeds, model_size: int | None
) -> Iterator[Finding]:
    if packing is None:
        message = unreadable or "The data have no metadata about their packing."
        hint = "`python -m trainer.pack` records tokenizer and pack size in metadata.json."
        yield finding("unverified", "unseen_packing", POINTER, message, hint)
        return
    size = packing.pack_size
    if size is not None and needs.seq_length is not None and size != needs.seq_length:
        message = f"The data were packed with pack_size {size}, but seq_length is {needs.seq_length}."
        hint = f"Set seq_length={size}, or pack the data again with --pack-size {needs.seq_length}."
        change = suggest("seq_length", needs.seq_length, size)
        yield finding("error", "seq_length_mismatch", "/seq_length", message, hint, change=change)
    if needs.hf_model_path is not None:
        yield from _tokenizer_findings(packing, needs, model_size)
    yield from _rule_findings(packing, needs)


def _tokenizer_findings(packing: Packing, needs: DataNeeds, model_size: int | None) -> Iterator[Finding]:
    model = printable(needs.hf_model_path or "")
    named = packing.tokenizer or "an unnamed tokenizer"
    try:
        ours = tokenizer_digest(needs.model) if needs.model else None
    except ValueError as error:
        message = f"{model}/tokenizer.json cannot be used: {printable(str(error))[:300]}."
        hint = "Download the model again, or name another directory."
        yield finding("error", "bad_checkpoint", "/hf_model_path", message, hint)
        return
    if ours and packing.tokenizer_sha256:
        if ours != packing.tokenizer_sha256:
            message = f"The data were packed with {named}. Its vocabulary differs from that of {model}."
            yield finding("error", "tokenizer_mismatch", "/hf_model_path", message, MISMATCH)
    elif model_size and packing.vocab_size and packing.vocab_size > model_size:
        message = f"The data's tokenizer has {packing.vocab_size} entries, but {model} has only {model_size}."
        yield finding("error", "tokenizer_mismatch", "/hf_model_path", message, MISMATCH)
    elif packing.tokenizer != needs.hf_model_path:
        message = f"The data were packed with {named}. It is unknown whether {model} has the same tokenizer."
        hint = "Make sure that the tokenizers are the same, or pack the data with the model's tokenizer."
        yield finding("unverified", "tokenizer_mismatch", "/hf_model_path", message, hint)


def _rule_findings(packing: Packing, needs: DataNeeds) -> Iterator[Finding]:
    """Say where template or rule are others than the model's users and NVIDIA's step would expect."""
    templates = templates_of(needs.model) if needs.model and packing.chat_template_sha256 else None
    if templates and templates_digest(templates) != packing.chat_template_sha256:
        model = printable(needs.hf_model_path or "")
        message = (
            f"The data were packed with another chat template than {model} has. "
            "The trained model will expect that of the data."
        )
        hint = "Use that template when you serve the model, or pack the data again with the model's own."
        yield finding("warning", "template_mismatch", "/hf_model_path", message, hint)
    if packing.mask not in (None, "assistant"):
        message = f"The data were packed with the rule mask={packing.mask}; NVIDIA's is mask=assistant."
        hint = "Pack the data again without --mask if you did not intend this."
        yield finding("advice", "other_mask_rule", POINTER, message, hint)
