"""What a job leaves behind: logs, events, metrics."""

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
from cli.commands.session import AsJson, JobId, service, trouble

PAGE_BYTES = 1 << 20
PAGE_EVENTS = 200
SPARK_WIDTH = 60
TABLE_STEPS = 20

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the end, as it happens.")]


def logs(
    context: typer.Context,
    job: JobId,
    follow: Follow = False,
    tail: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="Begin with the last so many lines.")
    ] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Default: the current one.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Default: all output.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print a job's log. With --json one piece a line: its text, and where in the log it lies."""
    which = {"attempt": attempt, "rank": rank}
    params = {name: value for name, value in which.items() if value is not None}
    with service(context) as api:
        for piece in _followed(api, job, params, tail) if follow else _pages(api, job, params, tail):
            show.line(piece) if as_json else _write(piece["text"])


def _write(text: str) -> None:
    """The log as it is or, on a terminal, as it does no harm there."""
    sys.stdout.write(show.plain(text.replace("\r", "\n")) if show.out.is_terminal else text)
    sys.stdout.flush()


def _pages(api: Api, job_id: str, params: dict[str, Any], tail: int | None) -> Iterator[Document]:
    """The log up to where it ended at the first look, piece by piece; or its last lines as one."""
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
    """Every piece of a log as it grows, once, however often the connection breaks."""
    offset = 0
    if tail:
        page = api.get(job_path(job_id, "logs"), params={**params, "tail": tail})
        yield page
        offset, params = page["next_offset"], {**params, "attempt": page["attempt"]}
    place = (params.get("attempt", 0), offset)
    path = job_path(job_id, "logs", "stream")
    for event in stream(api, path, {**params, "offset": offset}, RetryPolicy(trouble)):
        data = parse(event.data)
        if event.event == "end":
            _refuse_early_end(data)
        elif event.event == "log" and (data["attempt"], data["next_offset"]) > place:
            place = (data["attempt"], data["next_offset"])
            yield data


def _refuse_early_end(data: Document) -> None:
    """Raises ApiError where the stream ended because the key did."""
    if data.get("reason") == "revoked":
        raise ApiError(401, {"detail": "The API key was revoked.", "hint": "Ask an admin for another."})


def events(context: typer.Context, job: JobId, follow: Follow = False, as_json: AsJson = False) -> None:
    """Print who did what to a job, and when. With -f and --json one event a line."""
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
    """As many pages as it takes, as if they were one."""
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
    for event in stream(api, job_path(job_id, "events", "stream"), {}, RetryPolicy(trouble)):
        data = parse(event.data)
        if event.event == "end":
            _refuse_early_end(data)
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
    resolution: Annotated[int, typer.Option(min=1, max=10_000, help="About how many points.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show loss and speed of a job's steps, and the loss of its validations."""
    wanted = {"from_step": from_step, "to_step": to_step, "resolution": resolution}
    params = {name: value for name, value in wanted.items() if value is not None}
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
    """Some of the steps, evenly, with the last; and every step that was validated."""
    validated = {one["step"]: one for one in found["validation"]}
    train = {one["step"]: one for one in found["train"]}
    order = sorted(train)
    stride = -(-len(order) // TABLE_STEPS) or 1
    for step in sorted({*order[::-1][::stride], *list(validated)[-TABLE_STEPS:]}):
        one = train.get(step, {})
        names = ("learning_rate", "grad_norm", "step_time_seconds", "tokens_per_second_per_gpu")
        losses = (one.get("loss"), validated.get(step, {}).get("loss"))
        yield (step, *(show.figure(value) for value in (*losses, *(one.get(name) for name in names))))
