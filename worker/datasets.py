"""Looks at packed data for a client, who may not have made a job yet."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import BoundedSemaphore

from pydantic import BaseModel, ConfigDict, Field

from trainer.config import is_local
from trainer.dataset import Packing
from trainer.preflight import Finding
from trainer.preflight.data import BATCH_SIZE, POINTER, SAMPLE_SECONDS, Job, Report, examine
from worker.clusters import Cluster, named_in_request
from worker.errors import ServiceUnavailable
from worker.refusals import invalid, refuse_control_characters
from worker.settings import get_settings

# Each takes a core and a thread of the API for as long as it may take.
FULL_PASSES = BoundedSemaphore(2)

# Places in a training config, as a request for an inspection names them.
PLACES = {POINTER: "/path", BATCH_SIZE: "/global_batch_size"}


class DatasetRequest(BaseModel):
    """Packed data, and what they have to fit. What is null is not checked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="Directory with splits/, directory of shards, one shard, or a pattern such as "
        "/data/shard-*.parquet.",
    )
    cluster: str | None = Field(default=None, description="Profile whose roots it lies under.")
    full: bool = Field(default=False, description="Read every row, as far as the time limit allows.")
    seq_length: int | None = Field(default=None, ge=1, lt=2**31)
    hf_model_path: str | None = Field(default=None, min_length=1, max_length=4096)
    global_batch_size: int | None = Field(default=None, ge=1, lt=2**31)


class SplitView(BaseModel):
    shards: int
    rows: int
    tokens: int


class Dataset(BaseModel):
    """What is known about packed data. Counts are those of all splits together."""

    ok: bool = Field(description="False where an error was found: a job with these data would be refused.")
    path: str
    cluster: str
    shards: int
    rows: int = Field(description="Packs, as the footers of the shards count them.")
    tokens: int
    tokens_exact: bool = Field(description="False where footers lack statistics: then it is an estimate.")
    trained_token_share: float | None = Field(description="Of the rows read; null where none were.")
    longest_pack: int | None = Field(description="Tokens, among the rows read; null where none were.")
    rows_read: int
    bytes_read: int
    packing: Packing | None = Field(description="What is noted beside the data about how they were packed.")
    splits: dict[str, SplitView]
    problems: list[Finding] = Field(description="The worst first; pointers lead into the request.")


def inspect(wanted: DatasetRequest) -> Dataset:
    """Look at a dataset. Raises InvalidSpec, and ServiceUnavailable while others are read in full."""
    refuse_control_characters(wanted)
    cluster = named_in_request(wanted.cluster)
    _refuse_paths(wanted, cluster)
    seconds = get_settings().max_inspect_seconds
    job = Job(wanted.seq_length, wanted.global_batch_size, wanted.hf_model_path)
    with _full_pass() if wanted.full else nullcontext():
        limit = seconds if wanted.full else min(SAMPLE_SECONDS, seconds)
        report = examine(Path(wanted.path), job, full=wanted.full, seconds=limit)
    return _answer(report, wanted.path, cluster)


def _refuse_paths(wanted: DatasetRequest, cluster: Cluster) -> None:
    model = wanted.hf_model_path
    named = {"/path": wanted.path, "/hf_model_path": model if model and is_local(model) else None}
    refusals = (cluster.refusal(where, path) for where, path in named.items() if path)
    if faults := [refusal for refusal in refusals if refusal]:
        raise invalid(faults)


@contextmanager
def _full_pass() -> Iterator[None]:
    if not FULL_PASSES.acquire(blocking=False):
        raise ServiceUnavailable(
            "Other datasets are being read in full.", hint="Try again soon, or ask for a sample."
        )
    try:
        yield
    finally:
        FULL_PASSES.release()


def _answer(report: Report, path: str, cluster: Cluster) -> Dataset:
    found = report.inspection
    splits = found.splits if found else {}
    problems = [_placed(finding) for finding in report.findings]
    return Dataset(
        ok=not any(finding.severity == "error" for finding in problems),
        path=path,
        cluster=cluster.name,
        shards=sum(split.shards for split in splits.values()),
        rows=sum(split.rows for split in splits.values()),
        tokens=sum(split.tokens for split in splits.values()),
        tokens_exact=found is not None and found.tokens_exact and not found.unread_shards,
        trained_token_share=found.trained_token_share if found else None,
        longest_pack=found.longest_pack if found and found.rows_read else None,
        rows_read=found.rows_read if found else 0,
        bytes_read=found.meter.bytes_read if found else 0,
        packing=report.packing,
        splits={name: SplitView(**vars(split)) for name, split in splits.items()},
        problems=problems,
    )


def _placed(finding: Finding) -> Finding:
    return finding.model_copy(update={"pointer": PLACES.get(finding.pointer, finding.pointer)})
