"""`sft`: run the service, or use a running service.

The commands that run a service import it only when they are called: the client commands start fast.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cli.client.endpoint import DEFAULT_URL, Endpoint
from cli.commands import audit, catalog, checkpoints, datasets, jobs, keys, limits, records
from cli.commands.session import EXIT_CODES, Commands, KeyFile, Url

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    epilog=EXIT_CODES,
)

DataDir = Annotated[Path | None, typer.Option(help="Data directory; default: SFT_DATA_DIR.")]


@app.callback()
def main(context: typer.Context, url: Url = DEFAULT_URL, key_file: KeyFile = None) -> None:
    """Fine-tuning as a service: submit and follow runs of Megatron-Bridge, and download their checkpoints."""
    context.obj = Endpoint(url, key_file)


PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Jobs": {
        "submit": jobs.submit,
        "plan": jobs.plan,
        "list": jobs.list_jobs,
        "show": jobs.show_job,
        "wait": jobs.wait,
        "logs": records.logs,
        "events": records.events,
        "metrics": records.metrics,
        "cancel": jobs.cancel,
        "pause": jobs.pause,
        "resume": jobs.resume,
        "retry": jobs.retry,
    },
    "Service": {
        "clusters": catalog.clusters,
        "presets": catalog.presets,
        "whoami": catalog.whoami,
        "audit": audit.audit,
    },
}
for panel, commands in PANELS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(checkpoints.commands, name="checkpoints", rich_help_panel="Jobs")
app.add_typer(datasets.commands, name="datasets", rich_help_panel="Jobs")
app.add_typer(keys.commands, name="keys", rich_help_panel="Service")
app.add_typer(limits.commands, name="limits", rich_help_panel="Service")


# -- running a service -----------------------------------------------------------------------------

HERE = "Run a service on this machine"


@app.command(rich_help_panel=HERE)
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    data_dir: DataDir = None,
) -> None:
    """Run the complete service: API, worker, beat and, unless SFT_REDIS_URL is set, a broker."""
    from cli import serve as supervisor
    from worker.settings import get_settings

    with _errors_as_messages():
        raise typer.Exit(supervisor.serve(host, port, data_dir or get_settings().data_dir))


@app.command(rich_help_panel=HERE)
def init(data_dir: DataDir = None) -> None:
    """Upgrade the database and write the admin key, without starting a process."""
    from cli.prepare import initialize
    from worker.settings import get_settings

    with _errors_as_messages():
        initialize(data_dir or get_settings().data_dir)
        Console(soft_wrap=True).print(
            f"Ready in {get_settings().data_dir}; the key: {get_settings().admin_key_path}"
        )


@app.command(rich_help_panel=HERE)
def gc(
    data_dir: DataDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Remove expired jobs, logs, idempotency keys and audit entries (SFT_KEEP_...)."""
    from cli import gc as collector
    from cli.prepare import use
    from worker.settings import get_settings

    with _errors_as_messages():
        use(data_dir or get_settings().data_dir)
        collector.remove(dry_run=dry_run)


@app.command(rich_help_panel=HERE)
def settings() -> None:
    """Print every setting with its value and meaning. Passwords are hidden."""
    from worker.settings import Settings, get_settings

    columns = (Column("Environment", no_wrap=True), Column("Value", overflow="fold"), Column("Meaning"))
    table = Table(*columns)
    with _errors_as_messages():
        values = get_settings()
    for name, field in Settings.model_fields.items():
        table.add_row(f"SFT_{name.upper()}", _shown(name, getattr(values, name)), field.description)
    Console().print(table)


def _shown(name: str, value: object) -> str:
    from cli.prepare import shown_url

    if name.endswith("_url") and value:
        return shown_url(str(value))
    return "" if value is None else str(value)


@contextmanager
def _errors_as_messages() -> Iterator[None]:
    """Print an error's message and hint instead of its traceback, and exit with 1."""
    from worker.errors import SftError

    try:
        yield
    except SftError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[red]{escape(error.message)}[/red]", escape(error.hint or ""))
        raise typer.Exit(1) from None
