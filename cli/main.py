"""`sft`: run the service."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from cli import gc as collector
from cli import serve as supervisor
from cli.prepare import initialize, shown_url, use
from worker.errors import SftError
from worker.settings import Settings, get_settings

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_show_locals=False)

DataDir = Annotated[Path | None, typer.Option(help="Where everything is kept; default: SFT_DATA_DIR.")]


@app.callback()
def main() -> None:
    """Fine-tuning as a service: submit, watch and collect runs of Megatron-Bridge."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0: any free one.")] = 8000,
    data_dir: DataDir = None,
) -> None:
    """Run the whole service: API, worker, beat and, unless SFT_REDIS_URL is set, a broker."""
    with _explained():
        raise typer.Exit(supervisor.serve(host, port, data_dir or get_settings().data_dir))


@app.command()
def init(data_dir: DataDir = None) -> None:
    """Bring the database up to date and write the admin key, without starting anything."""
    with _explained():
        initialize(data_dir or get_settings().data_dir)
        Console(soft_wrap=True).print(
            f"Ready in {get_settings().data_dir}; the key: {get_settings().admin_key_path}"
        )


@app.command()
def gc(
    data_dir: DataDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed.")] = False,
) -> None:
    """Remove finished jobs, logs and idempotency keys that are past their time (SFT_KEEP_...)."""
    with _explained():
        use(data_dir or get_settings().data_dir)
        collector.remove(dry_run=dry_run)


@app.command()
def settings() -> None:
    """Print every setting with its value and what it is for. Passwords are hidden."""
    columns = (Column("Environment", no_wrap=True), Column("Value", overflow="fold"), Column("Meaning"))
    table = Table(*columns)
    with _explained():
        values = get_settings()
    for name, field in Settings.model_fields.items():
        table.add_row(f"SFT_{name.upper()}", _shown(name, getattr(values, name)), field.description)
    Console().print(table)


def _shown(name: str, value: object) -> str:
    if name.endswith("_url") and value:
        return shown_url(str(value))
    return "" if value is None else str(value)


@contextmanager
def _explained() -> Iterator[None]:
    """End with an error's message and hint instead of its traceback."""
    try:
        yield
    except SftError as error:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[red]{escape(error.message)}[/red]", escape(error.hint or ""))
        raise typer.Exit(1) from None
