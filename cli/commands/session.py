"""Common parts of the commands: the service, shared options, error messages and exit codes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.client.api import Api
from cli.client.endpoint import DEFAULT_URL, Endpoint
from cli.client.errors import ApiError, ClientError, ExitCode
from cli.commands import show

Url = Annotated[str, typer.Option("--url", envvar="SFT_URL", metavar="URL", help="URL of the service.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="File with the API key. Otherwise the key is SFT_API_KEY, or in the file SFT_API_KEY_FILE, or, "
        "for a service on this machine, admin.key in SFT_DATA_DIR (./sft-data).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="ID of a job.")]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", min=0, metavar="SECONDS", help="Stop waiting after this time: exit code 8."),
]

EXIT_CODES = (
    "Exit codes: 0 success; 1 rejected, or another error; 2 wrong usage; 3 the job ended FAILED or LOST; "
    "4 the job was cancelled; 5 not found; 6 not allowed, or no key; 7 the service cannot be reached or is "
    "unavailable; 8 --timeout passed; 130 interrupted."
)


class Commands(TyperGroup):
    """A group whose commands turn client errors into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        # Characters that the terminal's encoding lacks must not end the command.
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        try:
            return super().invoke(ctx)
        except ClientError as error:
            _explain(error)
            raise typer.Exit(error.exit_code) from None
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            show.say(f"{error.filename or 'I/O'}: {error.strerror or error}")
            raise typer.Exit(ExitCode.ERROR) from None
        finally:
            sys.stdout.flush()  # a closed pipe is handled here; at interpreter exit Python prints an error


def _explain(error: ClientError) -> None:
    show.say(error.message, style="red")
    if isinstance(error, ApiError):
        for field in error.field_errors:
            show.say(f"  {field.get('pointer', '')}: {field.get('detail', '')} {field.get('hint') or ''}")
    if error.hint:
        show.say(error.hint)


@contextmanager
def service(context: typer.Context) -> Iterator[Api]:
    """Yield a client of the service that the options name. Raises Misused, NoKey."""
    api = Api(context.find_root().obj or Endpoint(DEFAULT_URL))
    try:
        yield api
    finally:
        api.close()


def warn_of_retry(error: ClientError) -> None:
    """Print that the service is unavailable and that the command retries."""
    show.say(f"{error.message} Trying again.", style="yellow")
