"""Commands for a job's logs, events and metrics."""

import json
import math
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from cli.client.api import Api, Document, job_path, parse
from cli.client.errors import ApiError
from cli.client.follow import events as stream
from cli.client.retry import RetryPolicy
from cli.commands import show
from cli.commands.session import AsJson, JobId, service, warn_of_retry

PAGE_BYTES = 1 << 20
PAGE_EVENTS = 200
SPARK_WIDTH = 60
TABLE_STEPS = 20

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Print new output until the job's end.")]


def logs(
    context: typer.Context,
    job: JobId,
    follow: Follow = False,
    tail: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Begin with this number of lines from the end.")
    ] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Default: the current attempt.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Default: the output of all ranks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's log. With --json one chunk per line: its text and its position in the log."""
    which = {"attempt": attempt, "rank": rank}
    params = {name: value for name, value in which.items() if value is not None}
    with service(context) as api:
        for chunk in _followed(api, job, params, tail) if follow else _pages(api, job, params, tail):
            show.line(chunk) if as_json else _write(chunk["text"])


def _write(text: str) -> None:
    """Write log text unchanged; on a terminal without harmful control characters."""
    sys.stdout.write(show.plain(text.replace("\r", "\n")) if show.out.is_terminal else text)
    sys.stdout.flush()


def _pages(api: Api, job_id: str, params: dict[str, Any], tail: int | None) -> Iterator[Document]:
    """Yield the log in chunks up to its size at the first request; or its last lines as one chunk."""
    path = job_path(job_id, "logs")
    first = {"tail": tail} if tail else {"limit": PAGE_BYTES}
    page = api.get(path, params={**params, **first})
    yield page
    size = page["size"]
    params = {**params, "attempt": page["attempt"], "limit": PAGE_BYTES}
    while tail is None and page["text"] and page["next_offset"] < size:
        page = api.get(path, params={**params, "offset": page["next_offset"]})
        yield page


def _followed(api: Api, job_id: str, params: dict[str, Any], tail: int | None) -> Iterator[Document]:
    """Yield every chunk of a growing log exactly once, also across reconnects."""
    offset = 0
    if tail:
        page = api.get(job_path(job_id, "logs"), params={**params, "tail": tail})
        yield page
        offset, params = page["next_offset"], {**params, "attempt": page["attempt"]}
    position = (params.get("attempt", 0), offset)
    path = job_path(job_id, "logs", "stream")
    for event in stream(api, path, {**params, "offset": offset}, RetryPolicy(warn_of_retry)):
        data = parse(event.data)
        if event.event == "end":
            _check_end(data)
        elif event.event == "log" and (data["attempt"], data["next_offset"]) > position:
            position = (data["attempt"], data["next_offset"])
            yield data


def _check_end(data: Document) -> None:
    """Raises ApiError if the stream ended because the key was revoked."""
    if data.get("reason") == "revoked":
        raise ApiError(401, {"detail": "The API key was revoked.", "hint": "Ask an admin for another key."})


def events(context: typer.Context, job: JobId, follow: Follow = False, as_json: AsJson = False) -> None:
    """Print a job's events: who did what, and when. With -f and --json one event per line."""
    with service(context) as api:
        if follow:
            for event in _stream_of_events(api, job):
                show.line(event) if as_json else show.text(_line(event))
            return
        page = _all_events(api, job)
    if as_json:
        show.document(page)
    else:
        columns = ("AT", "ATTEMPT", "ACTOR", "TYPE", "WHAT")
        show.table(columns, (_row(event) for event in page["items"]))


def _all_events(api: Api, job_id: str) -> Document:
    """Return all pages of events as one page."""
    items: list[Document] = []
    after = 0
    while True:
        page = api.get(job_path(job_id, "events"), params={"after": after, "limit": PAGE_EVENTS})
        items += page["items"]
        after = page["next_after"]
        if len(page["items"]) < PAGE_EVENTS:
            return Document({**page, "items": items})


def _stream_of_events(api: Api, job_id: str) -> Iterator[Document]:
    last = 0
    for event in stream(api, job_path(job_id, "events", "stream"), {}, RetryPolicy(warn_of_retry)):
        data = parse(event.data)
        if event.event == "end":
            _check_end(data)
        elif event.event == "event" and data["id"] > last:
            last = data["id"]
            yield data


def _row(event: Document) -> tuple[object, ...]:
    what = " ".join(f"{key}={_short(value)}" for key, value in event["data"].items() if value is not None)
    return (show.moment(event["at"]), event["attempt"], event["actor"], event["type"], what)


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _line(event: Document) -> str:
    return "  ".join(str(value).replace("\n", " ") for value in _row(event))


def metrics(
    context: typer.Context,
    job: JobId,
    from_step: Annotated[int | None, typer.Option(min=0, help="First step.")] = None,
    to_step: Annotated[int | None, typer.Option(min=0, help="Last step.")] = None,
    resolution: Annotated[int, typer.Option(min=1, max=10_000, help="Approximate number of points.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show loss and speed of a job's steps, and its validation losses."""
    options = {"from_step": from_step, "to_step": to_step, "resolution": resolution}
    params = {name: value for name, value in options.items() if value is not None}
    with service(context) as api:
        found = api.get(job_path(job, "metrics"), params=params)
    show.document(found) if as_json else _show_metrics(found)


def _show_metrics(found: Document) -> None:
    for name, points in (("loss", found["train"]), ("validation loss", found["validation"])):
        values = [one["loss"] for one in points if one["loss"] is not None and math.isfinite(one["loss"])]
        if values:
            spark = show.sparkline(values, SPARK_WIDTH)
            first, last = show.figure(values[0]), show.figure(values[-1])
            show.text(f"{name:<16} {first} {spark} {last}  (lowest {show.figure(min(values))})")
    columns = ("STEP", "LOSS", "VALIDATION", "LEARNING RATE", "GRAD NORM", "S/STEP", "TOKENS/S/GPU")
    show.table(columns, _steps(found))


def _steps(found: Document) -> Iterator[tuple[object, ...]]:
    """Yield evenly spaced steps, including the last, and the latest validated steps."""
    validated = {one["step"]: one for one in found["validation"]}
    train = {one["step"]: one for one in found["train"]}
    order = sorted(train)
    stride = -(-len(order) // TABLE_STEPS) or 1
    for step in sorted({*order[::-1][::stride], *list(validated)[-TABLE_STEPS:]}):
        one = train.get(step, {})
        names = ("learning_rate", "grad_norm", "step_time_seconds", "tokens_per_second_per_gpu")
        losses = (one.get("loss"), validated.get(step, {}).get("loss"))
        yield (step, *(show.figure(value) for value in (*losses, *(one.get(name) for name in names))))
