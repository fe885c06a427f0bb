"""A progress bar, where there is a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.packing.progress import PackingPhase, PackingProgress, Report, ignore

REFRESH_SECONDS = 0.2

TITLES = {PackingPhase.TOKENIZE: "Tokenizing", PackingPhase.WRITE: "Writing packs"}


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Show what the report gets on stderr if that is a terminal; else nothing."""
    if not sys.stderr.isatty():
        yield ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    # Without auto_refresh, which starts a thread: processes are forked later.
    columns = ("{task.description}", BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        tasks = {
            phase: bar.add_task(title, total=None, rate="", start=False) for phase, title in TITLES.items()
        }

        def report(progress: PackingProgress) -> None:
            task = tasks[progress.phase]
            bar.start_task(task)
            total = None if progress.share is None else 1.0
            done = f"{progress.records:,} records, {progress.tokens:,} tokens"
            rate = f"{done}, {progress.records_per_second:,.0f} records/s"
            bar.update(task, total=total, completed=progress.share or 0, rate=rate, refresh=True)

        yield report
