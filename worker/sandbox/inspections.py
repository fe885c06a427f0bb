"""Inspect files that a client or a run has named: each in a child process, or by an earlier result."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from trainer.config.training_config import TrainingConfig
from trainer.preflight import Finding, Hardware
from trainer.preflight.assessment import Assessment, AssessmentRequest
from trainer.preflight.assessment import assess as assess_here
from trainer.preflight.data import SAMPLE_SECONDS
from trainer.preflight.finding import finding
from trainer.preflight.remote import GRACE_SECONDS, ConfigRequest, DataRequest, InspectionResult
from trainer.quoting import printable
from worker.errors import BackendUnavailable, ServiceUnavailable
from worker.sandbox.cache import Cache
from worker.sandbox.functions import (
    ASSESS,
    EXPORT,
    FIXES,
    INSPECT,
    Fixes,
    FixesRequest,
    Function,
    Request,
    WeightsAnswer,
    WeightsRequest,
)
from worker.sandbox.mounts import view_of
from worker.sandbox.pool import Pool, Use
from worker.sandbox.process import Reply
from worker.settings import get_settings
from worker.telemetry import metrics

_POOL = Pool()
_CACHE = Cache()


def assess(
    config: TrainingConfig, hardware: Hardware, roots: Sequence[Path], *, files: bool, project: str = ""
) -> Assessment:
    """Assess a config. A config that names no files, or none that this machine sees, needs no child.

    roots: no link may lead out of these directories.
    files: whether this machine can read the files that the config names.
    project: whose request it is.

    Raises ServiceUnavailable.
    """
    seconds = min(SAMPLE_SECONDS, get_settings().max_inspect_seconds)
    request = AssessmentRequest(
        config=config, hardware=hardware, roots=list(roots), seconds=seconds, project=project
    )
    paths = config.client_paths()
    if not files or not paths:
        return assess_here(request, files=files)
    answer = _run(ASSESS, request, seconds)
    if isinstance(answer, Assessment):
        return answer
    without = assess_here(request, files=False)
    known = [one for one in without.findings if one.severity != "unverified"]
    return without.model_copy(update={"findings": [_finding(answer, paths), *known]})


def inspect(request: ConfigRequest | DataRequest) -> InspectionResult:
    """Inspect the files of a request on this machine. Raises BackendUnavailable."""
    try:
        answer = _run(INSPECT, request, request.seconds)
    except ServiceUnavailable as error:
        raise BackendUnavailable(error.message, hint=error.hint) from error
    if isinstance(answer, InspectionResult):
        return answer
    return InspectionResult(findings=[_finding(answer, request.paths())])


def fixes(request: FixesRequest, *, files: bool) -> Fixes:
    """Return suggested fixes of a failure; none if the files cannot be inspected. files: as for assess.

    Raises ServiceUnavailable.
    """
    if not files or not request.config.client_paths():
        return request.fixes(files=files)
    answer = _run(FIXES, request, SAMPLE_SECONDS)
    return answer if isinstance(answer, Fixes) else Fixes(items=[])


def is_export_complete(names: Sequence[str], index: bytes, project: str) -> bool:
    """Return whether the files of an export hold what its index names. Raises BackendUnavailable."""
    text = index.decode(errors="replace")
    request = WeightsRequest(names=list(names), index=text, project=project)
    try:
        answer = _run(EXPORT, request, SAMPLE_SECONDS)
    except ServiceUnavailable as error:
        raise BackendUnavailable(error.message, hint=error.hint) from error
    return isinstance(answer, WeightsAnswer) and answer.is_complete


def _run[Q: Request, A: BaseModel](function: Function[Q, A], request: Q, seconds: float) -> A | Reply:
    """Return the answer of a function, or the reply that says why there is none.

    seconds: the time limit of the function itself. An answer that took longer may be incomplete.
    """
    use = Use(request.project, view_of(request.roots))
    reply = _reply(use, function.name, request.model_dump_json(), seconds)
    if reply.answer is None:
        return reply
    try:
        return function.answer.model_validate_json(reply.answer)
    except ValidationError:
        return Reply(why="the process that inspected it gave no valid answer", opened=reply.opened)


def _reply(use: Use, name: str, request: str, seconds: float) -> Reply:
    """Return an earlier reply that still holds, or ask a child. Raises ServiceUnavailable."""
    if (known := _CACHE.find(_key(name, request))) is not None:
        metrics.INSPECTIONS.labels(name, "reused").inc()
        return known
    begun, begun_ns = time.monotonic(), time.time_ns()
    reply = _POOL.ask(use, name, seconds + GRACE_SECONDS, request)
    metrics.INSPECTIONS.labels(name, "failed" if reply.answer is None else "done").inc()
    if reply.stalled:
        message = f"{_opened(reply)} could not be inspected: {reply.why}."
        raise ServiceUnavailable(message, hint="Its file system may be slow. Try again.")
    if reply.answer is None or time.monotonic() - begun < seconds:
        _CACHE.keep(_key(name, request), reply, begun_ns)
    return reply


def _key(name: str, request: str) -> tuple[str, bytes, str | None]:
    """Identify a question: other checks, which a child may have after an upgrade, may answer otherwise."""
    return name, hashlib.sha256(request.encode()).digest(), _POOL.version


def _opened(reply: Reply) -> str:
    return printable(reply.opened) if reply.opened else "What the request names"


def _finding(reply: Reply, paths: Sequence[tuple[str, str]]) -> Finding:
    """Point at the path of the request that leads to the file."""
    opened = reply.opened or ""
    leading = [where for where, path in paths if opened == path or opened.startswith(f"{path}/")]
    pointer = next(iter([*leading, *(where for where, _ in paths)]), "")
    message = f"{_opened(reply)} could not be inspected: {reply.why}."
    return finding("error", "unreadable_file", pointer, message, "Copy the file again, or name another one.")
