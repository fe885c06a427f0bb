"""Parameters that several routes share."""

import re
from typing import Annotated, NoReturn

from fastapi import Depends, Header, Query, Request

from api.job_watcher import JobWatcher
from worker.errors import FieldError, InvalidSpec
from worker.limits.open_requests import OpenRequests
from worker.settings import get_settings

MAX_LABELS = 20


def get_labels(request: Request) -> dict[str, str]:
    """Parse labels[team]=support as {"team": "support"}. Raises InvalidSpec: wrong form, too many labels."""
    given = {name: value for name, value in request.query_params.items() if _is_label(name)}
    if len(given) > MAX_LABELS:
        _reject("too_many", f"At most {MAX_LABELS} labels are allowed; {len(given)} were given.")
    labels = {}
    for name, value in given.items():
        match = re.fullmatch(r"labels\[([^][]+)\]", name)
        if match is None:
            _reject("invalid", f"{name[:50]!r} is not a label filter. Write labels[team]=support.")
        labels[match[1]] = value
    return labels


def _is_label(name: str) -> bool:
    return name == "labels" or name.startswith("labels[")


def _reject(code: str, detail: str) -> NoReturn:
    raise InvalidSpec(detail, errors=[FieldError(pointer="query/labels", code=code, detail=detail)])


def get_wait(
    wait: Annotated[
        str | None,
        Query(
            pattern=r"^\d{1,4}s?$",
            description="Respond when the job changes, or after this number of seconds: `30s`. "
            "The service may set a lower limit, and then responds earlier.",
        ),
    ] = None,
) -> float:
    """Return the seconds to wait for a change, at most the service's limit: clients repeat the request."""
    return min(float(wait.rstrip("s")) if wait else 0.0, get_settings().max_wait_seconds)


def get_job_watcher(request: Request) -> JobWatcher:
    watcher: JobWatcher = request.app.state.job_watcher
    return watcher


def get_open_requests(request: Request) -> OpenRequests:
    open_requests: OpenRequests = request.app.state.open_requests
    return open_requests


def get_known_tags(
    if_none_match: Annotated[
        str | None, Header(description="ETags: 304 while one of them is current.", max_length=1000)
    ] = None,
) -> set[str]:
    """Return the tags of If-None-Match; proxies may have made them weak (RFC 9110, 13.1.2)."""
    return {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")} - {""}


KnownTags = Annotated[set[str], Depends(get_known_tags)]
OpenRequestsDep = Annotated[OpenRequests, Depends(get_open_requests)]
JobWatcherDep = Annotated[JobWatcher, Depends(get_job_watcher)]
LabelsDep = Annotated[dict[str, str], Depends(get_labels)]
WaitDep = Annotated[float, Depends(get_wait)]
IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Requests with the same key and body create one job, however often they are sent.",
    ),
]
Cursor = Annotated[str | None, Query(max_length=64, description="`next_cursor` of the previous page.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Maximum number of items on a page.")]
