"""Inspect packed data for a client, before there is a job."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import BoundedSemaphore

from pydantic import BaseModel, ConfigDict, Field

from trainer.config.training_config import is_local
from trainer.preflight import Finding
from trainer.preflight.data import BATCH_SIZE, POINTER, SAMPLE_SECONDS
from trainer.preflight.remote import Counts, DataRequest, InspectionResult
from worker.auth.roles import Tenant
from worker.backends.connect import connect
from worker.clusters.registry import Cluster, named_in_request
from worker.errors import FieldError, InvalidSpec, ServiceUnavailable
from worker.planning.request_guards import invalid_spec, reject_unsafe_texts, rejection
from worker.settings import get_settings

# A full pass occupies a child of the sandbox, or the login node, up to its time limit.
FULL_PASSES = BoundedSemaphore(2)

# Pointer into a training config -> pointer into an inspection request.
POINTERS = {POINTER: "/path", BATCH_SIZE: "/global_batch_size"}


class DatasetRequest(BaseModel):
    """Packed data, and the values that they must be compatible with. A null value is not checked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str = Field(
        min_length=1,
        max_length=4096,
        description="Directory with splits/, directory of shards, one shard, or a pattern such as "
        "/data/shard-*.parquet.",
    )
    cluster: str | None = Field(default=None, description="Cluster profile whose roots contain the path.")
    full: bool = Field(default=False, description="Read all rows, within the time limit.")
    seq_length: int | None = Field(default=None, ge=1, lt=2**31)
    hf_model_path: str | None = Field(default=None, min_length=1, max_length=4096)
    global_batch_size: int | None = Field(default=None, ge=1, lt=2**31)


class Dataset(Counts):
    """The result of an inspection. Counts are totals over all splits."""

    ok: bool = Field(description="False if an error was found: a job with these data would be rejected.")
    path: str
    cluster: str
    problems: list[Finding] = Field(description="Findings, the worst first; pointers are into the request.")


def inspect(wanted: DatasetRequest, tenant: Tenant) -> Dataset:
    """Inspect a dataset on its cluster, below the roots of the tenant.

    Raises InvalidSpec, BackendUnavailable, and ServiceUnavailable if too many full passes are running.
    """
    reject_unsafe_texts(wanted)
    cluster = named_in_request(wanted.cluster, tenant)
    _check_paths(wanted, cluster)
    seconds = get_settings().max_inspect_seconds
    request = DataRequest(
        **wanted.model_dump(exclude={"cluster"}),
        roots=cluster.roots,
        project=tenant.project,
        seconds=seconds if wanted.full else min(SAMPLE_SECONDS, seconds),
    )
    with _full_pass() if wanted.full else nullcontext():
        seen = connect(cluster).inspect(request)
    if seen is None:
        raise _not_reachable(cluster)
    return _dataset(seen, wanted.path, cluster)


def _not_reachable(cluster: Cluster) -> InvalidSpec:
    detail = f"The service cannot inspect files of cluster {cluster.name!r}, neither directly nor over SSH."
    hint = "Set login_python in the cluster's profile: an interpreter on its login node."
    return rejection("/cluster", "not_reachable", detail, hint)


def _check_paths(wanted: DatasetRequest, cluster: Cluster) -> None:
    model = wanted.hf_model_path
    named = {"/path": wanted.path, "/hf_model_path": model if model and is_local(model) else None}
    rejections = (cluster.path_rejection(where, path) for where, path in named.items() if path)
    if errors := [error for error in rejections if error]:
        raise invalid_spec(errors)


@contextmanager
def _full_pass() -> Iterator[None]:
    if not FULL_PASSES.acquire(blocking=False):
        raise ServiceUnavailable(
            "Other datasets are being read in full.", hint="Try again later, or request a sample."
        )
    try:
        yield
    finally:
        FULL_PASSES.release()


def _dataset(seen: InspectionResult, path: str, cluster: Cluster) -> Dataset:
    problems = [_in_request(finding) for finding in seen.findings]
    if seen.data is None:
        raise invalid_spec([
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


def _in_request(finding: Finding) -> Finding:
    return finding.model_copy(update={"pointer": POINTERS.get(finding.pointer, finding.pointer)})
