"""The usual parameters of routes."""

import re
from typing import Annotated, NoReturn

from fastapi import Depends, Header, Query, Request

from api.waiting import Watch
from worker.errors import FieldError, InvalidSpec
from worker.settings import get_settings

MAX_LABELS = 20


def get_labels(request: Request) -> dict[str, str]:
    """labels[team]=support as {"team": "support"}. Raises InvalidSpec for other forms, and for too many."""
    given = {name: value for name, value in request.query_params.items() if _is_label(name)}
    if len(given) > MAX_LABELS:
        _refuse("too_many", f"At most {MAX_LABELS} labels.")
    labels = {}
    for name, value in given.items():
        match = re.fullmatch(r"labels\[([^][]+)\]", name)
        if match is None:
            _refuse("invalid", "A label is asked for as labels[team]=support.")
        labels[match[1]] = value
    return labels


def _is_label(name: str) -> bool:
    return name == "labels" or name.startswith("labels[")


def _refuse(code: str, detail: str) -> NoReturn:
    raise InvalidSpec(detail, errors=[FieldError(pointer="query/labels", code=code, detail=detail)])


def get_wait(
    wait: Annotated[
        str | None,
        Query(
            pattern=r"^\d{1,4}s?$",
            description="Answer when the job changes, or after so many seconds: `30s`. "
            "A service that does not wait that long answers earlier.",
        ),
    ] = None,
) -> float:
    """Seconds to wait for a change, never more than the service allows: who waits longer asks again."""
    return min(float(wait.rstrip("s")) if wait else 0.0, get_settings().max_wait_seconds)


def get_watch(request: Request) -> Watch:
    watch: Watch = request.app.state.watch
    return watch


def get_known_tags(
    if_none_match: Annotated[
        str | None, Header(description="ETags: 304 while one of them holds.", max_length=1000)
    ] = None,
) -> set[str]:
    """The tags of If-None-Match; proxies may have made them weak (RFC 9110, 13.1.2)."""
    return {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")} - {""}


KnownTags = Annotated[set[str], Depends(get_known_tags)]
WatchDep = Annotated[Watch, Depends(get_watch)]
LabelsDep = Annotated[dict[str, str], Depends(get_labels)]
WaitDep = Annotated[float, Depends(get_wait)]
IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same key and body make one job, however often they are sent.",
    ),
]
Cursor = Annotated[str | None, Query(max_length=64, description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]
