"""Progress bars on stderr, only on a terminal."""

from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from cli.client.api import Document
from cli.commands import show


def _text(template: str) -> TextColumn:
    return TextColumn(template, markup=False)


def _progress(*columns: ProgressColumn) -> Progress:
    # Output on stdout is printed above the bars, unless stdout is redirected.
    return Progress(
        *columns,
        console=show.err,
        disable=not show.err.is_terminal,
        redirect_stdout=show.out.is_terminal,
    )


class Bars:
    """One progress bar per job."""

    def __init__(self) -> None:
        state = _text("{task.description} {task.fields[state]:<11}")
        self._progress = _progress(state, BarColumn(), _text("{task.fields[figures]}"))
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, job: Document) -> None:
        name = show.plain(job["id"])
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, state="", figures="")
        now = job["progress"]
        self._progress.update(
            self._tasks[name],
            completed=now["step"] or 0,
            total=now["total_steps"],
            state=show.plain(job["state"]),
            figures=_figures(job),
        )


def _figures(job: Document) -> str:
    now = job["progress"]
    loss = f"loss {show.figure(now['loss'])}" if now["loss"] is not None else ""
    eta = f"ETA {show.duration(now['eta_seconds'])}" if now["eta_seconds"] and not job["terminal"] else ""
    steps = f"{now['step'] or 0}/{now['total_steps'] or '?'}"
    return " ".join(part for part in (steps, loss, eta) if part)


def download(name: str, size_bytes: int) -> tuple[Progress, TaskID]:
    """Return a progress bar that counts bytes, and its task."""
    progress = _progress(_text("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return progress, progress.add_task(show.plain(name), total=size_bytes)
