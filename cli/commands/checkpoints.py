"""Commands for checkpoints: list, download, export."""

from pathlib import Path
from typing import Annotated

import typer

from cli.client import download
from cli.client.api import Document, job_path
from cli.client.retry import RetryPolicy
from cli.commands import jobs, progress, show
from cli.commands.body import pairs
from cli.commands.session import AsJson, JobId, Timeout, service, warn_of_retry

# How long a download retries without receiving a byte.
SILENCE_SECONDS = 60.0

Iteration = Annotated[int, typer.Argument(min=0, metavar="ITERATION")]

commands = typer.Typer(no_args_is_help=True, help="List, download and export checkpoints.")


@commands.command("ls")
def list_checkpoints(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """List a job's complete checkpoints, oldest first."""
    with service(context) as api:
        found = api.get(job_path(job, "checkpoints"))
    if as_json:
        show.document(found)
        return
    show.table(
        ("ITERATION", "ATTEMPT", "FORMAT", "SIZE", "VALIDATION LOSS", "SAVED", "PATH"),
        (_row(saved) for saved in found["items"]),
    )


def _row(saved: Document) -> tuple[object, ...]:
    figures = (show.size(saved["bytes"]), show.figure(saved["validation_loss"]))
    return (
        saved["iteration"],
        saved["attempt"],
        saved["format"],
        *figures,
        show.moment(saved["saved_at"]),
        saved["path"],
    )


@commands.command("get")
def get_checkpoint(
    context: typer.Context,
    job: JobId,
    iteration: Iteration,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Target directory; default: ./JOB/iter_ITERATION."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a checkpoint's files and print their directory.

    Complete files are kept, and an interrupted download resumes.
    """
    with service(context) as api:
        detail = api.get(job_path(job, "checkpoints", iteration))
        directory = output or Path(Path(job).name) / f"iter_{iteration:07d}"
        files = download.files(job, detail, directory)
        directory.mkdir(parents=True, exist_ok=True)
        bar, task = progress.download(f"iteration {iteration}", sum(file.size_bytes for file in files))
        with bar:
            policy = RetryPolicy(warn_of_retry, outage_seconds=SILENCE_SECONDS, endless=False)
            download.fetch(api, files, policy, lambda number: bar.advance(task, number))
    show.document(detail) if as_json else show.text(directory)


@commands.command("export")
def export_checkpoint(
    context: typer.Context,
    job: JobId,
    iteration: Iteration,
    name: jobs.Name = None,
    label: jobs.Labels = None,
    time_limit: Annotated[
        int | None, typer.Option("--time-limit", min=1, metavar="MINUTES", help="Default: the cluster's.")
    ] = None,
    idempotency_key: jobs.IdempotencyKey = None,
    wait: jobs.Wait = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Export a checkpoint to a Hugging Face directory, as a new job with the directory as its checkpoint.

    Download the result like any checkpoint: sft checkpoints get NEW_JOB ITERATION.
    """
    options = {
        "name": name,
        "labels": pairs(label) if label else None,
        "resources": {"time_limit_minutes": time_limit} if time_limit else None,
    }
    body = {key: value for key, value in options.items() if value is not None}
    jobs.create(
        context, job_path(job, "checkpoints", iteration, "export"), body, idempotency_key,
        wait=wait, timeout=timeout, as_json=as_json,
    )  # fmt: skip
