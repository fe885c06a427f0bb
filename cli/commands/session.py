"""What every command shares: the service that is meant, its options, and how errors end it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.client.api import Api
from cli.client.errors import ApiError, ClientError, ExitCode
from cli.client.where import DEFAULT_URL, Where
from cli.commands import show

Url = Annotated[str, typer.Option("--url", envvar="SFT_URL", metavar="URL", help="Where the service is.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help="File that holds the API key. Else the key is SFT_API_KEY, or in the file SFT_API_KEY_FILE, or, "
        "for a service on this machine, admin.key in SFT_DATA_DIR (./sft-data).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", min=0, metavar="SECONDS", help="Give up after this: exit code 8.")
]

EXIT_CODES = (
    "Exit codes: 0 fine; 1 refused, or failed otherwise; 2 wrong usage; 3 the job ended FAILED or LOST; "
    "4 it was cancelled; 5 not found; 6 not allowed, or no key; 7 the service cannot be reached or is "
    "unavailable; 8 --timeout passed; 130 interrupted."
)


class Commands(TyperGroup):
    """A group whose commands end with a message and an exit code where a client's errors are raised."""

    def invoke(self, ctx: Any) -> Any:
        # What cannot be written in the terminal's encoding is no reason to stop.
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
            sys.stdout.flush()  # here a closed pipe is noticed quietly, at the interpreter's end it is not


def _explain(error: ClientError) -> None:
    show.say(error.message, style="red")
    if isinstance(error, ApiError):
        for fault in error.faults:
            show.say(f"  {fault.get('pointer', '')}: {fault.get('detail', '')} {fault.get('hint') or ''}")
    if error.hint:
        show.say(error.hint)


@contextmanager
def service(context: typer.Context) -> Iterator[Api]:
    """The service that the options name. Raises Misused, NoKey."""
    api = Api(context.find_root().obj or Where(DEFAULT_URL))
    try:
        yield api
    finally:
        api.close()


def trouble(error: ClientError) -> None:
    """Tell that a service is away, and that we go on."""
    show.say(f"{error.message} Trying again.", style="yellow")
