"""Checkpoints: list them, download them."""

from pathlib import Path
from typing import Annotated

import typer

from cli.client import download
from cli.client.api import Document, job_path
from cli.client.patience import Patience
from cli.commands import progress, show
from cli.commands.session import AsJson, JobId, service, trouble

# How long a download waits for another byte.
SILENCE_SECONDS = 60.0

commands = typer.Typer(no_args_is_help=True, help="List checkpoints, download them.")


@commands.command("ls")
def list_checkpoints(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """List a job's complete checkpoints, oldest first."""
    with service(context) as api:
        found = api.get(job_path(job, "checkpoints"))
    if as_json:
        show.document(found)
        return
    show.table(
        ("ITERATION", "ATTEMPT", "SIZE", "VALIDATION LOSS", "SAVED", "PATH"),
        (_row(saved) for saved in found["items"]),
    )


def _row(saved: Document) -> tuple[object, ...]:
    figures = (show.size(saved["bytes"]), show.figure(saved["validation_loss"]))
    return (saved["iteration"], saved["attempt"], *figures, show.moment(saved["saved_at"]), saved["path"])


@commands.command("get")
def get_checkpoint(
    context: typer.Context,
    job: JobId,
    iteration: Annotated[int, typer.Argument(min=0, metavar="ITERATION")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where to; default: JOB/iter_ITERATION here."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint's files and print their directory.

    Files that are there whole are left alone, and one that broke off is gone on with.
    """
    with service(context) as api:
        detail = api.get(job_path(job, "checkpoints", iteration))
        directory = output or Path(Path(job).name) / f"iter_{iteration:07d}"
        files = download.files(job, detail, directory)
        directory.mkdir(parents=True, exist_ok=True)
        bar, task = progress.download(f"iteration {iteration}", sum(file.size_bytes for file in files))
        with bar:
            patience = Patience(trouble, away_seconds=SILENCE_SECONDS, endless=False)
            download.fetch(api, files, patience, lambda number: bar.advance(task, number))
    show.document(detail) if as_json else show.text(directory)
