"""Looks at packed data for a client, who may not have made a job yet."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import BoundedSemaphore

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.training_config import is_local
from trainer.preflight import Finding
from trainer.preflight.data import BATCH_SIZE, POINTER, SAMPLE_SECONDS
from trainer.preflight.remote import Counts, DataRequest, InspectionResult
from worker.backends.connect import connect
from worker.clusters.registry import Cluster, named_in_request
from worker.errors import FieldError, InvalidSpec, ServiceUnavailable
from worker.planning.request_guards import fault, invalid, refuse_control_characters
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


class Dataset(Counts):
    """What is known about packed data. Counts are those of all splits together."""

    ok: bool = Field(description="False where an error was found: a job with these data would be refused.")
    path: str
    cluster: str
    problems: list[Finding] = Field(description="The worst first; pointers lead into the request.")


def inspect(wanted: DatasetRequest) -> Dataset:
    """Look at a dataset, where it is.

    Raises InvalidSpec, BackendUnavailable, and ServiceUnavailable while others are read in full.
    """
    refuse_control_characters(wanted)
    cluster = named_in_request(wanted.cluster)
    _refuse_paths(wanted, cluster)
    seconds = get_settings().max_inspect_seconds
    request = DataRequest(
        **wanted.model_dump(exclude={"cluster"}),
        roots=cluster.roots,
        seconds=seconds if wanted.full else min(SAMPLE_SECONDS, seconds),
    )
    with _full_pass() if wanted.full else nullcontext():
        seen = connect(cluster).look(request)
    if seen is None:
        raise _not_reachable(cluster)
    return _dataset(seen, wanted.path, cluster)


def _not_reachable(cluster: Cluster) -> InvalidSpec:
    detail = f"The files of cluster {cluster.name!r} cannot be seen from here, and it has nothing that looks."
    hint = "Set login_python in the cluster's profile: an interpreter on its login node."
    return fault("/cluster", "not_reachable", detail, hint)


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


def _dataset(seen: InspectionResult, path: str, cluster: Cluster) -> Dataset:
    problems = [_placed(finding) for finding in seen.findings]
    if seen.data is None:
        raise invalid([
            FieldError(pointer=one.pointer, code=one.code, detail=one.message, hint=one.hint)
            for one in problems
        ])  # fmt: skip
    return Dataset(
        **dict(seen.data),
        ok=not any(finding.severity == "error" for finding in problems),
        path=path,
        cluster=cluster.name,
        problems=problems,
    )


def _placed(finding: Finding) -> Finding:
    return finding.model_copy(update={"pointer": PLACES.get(finding.pointer, finding.pointer)})
