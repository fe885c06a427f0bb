"""Commands for the limits of projects, for admins; `sft limits show` for everybody."""

from typing import Annotated
from urllib.parse import quote

import typer

from cli.client.api import Document
from cli.commands import show
from cli.commands.session import AsJson, service

commands = typer.Typer(
    no_args_is_help=True, help="Show what a project may use at a time, and set it (for admins)."
)

NAMES = ("live_jobs", "waiting_jobs", "gpus")
Project = Annotated[str | None, typer.Argument(help="Default: the project of your key.")]
Limit = Annotated[int | None, typer.Option(min=0, help="Left out: the default.")]


@commands.command("list")
def list_limits(context: typer.Context, as_json: AsJson = False) -> None:
    """List the default limits, and the projects for which an admin has set others."""
    with service(context) as api:
        found = api.get("/v1/limits")
    if as_json:
        show.document(found)
        return
    rows = [("(default)", found["defaults"]), *found["projects"].items()]
    show.table(("PROJECT", "LIVE JOBS", "WAITING JOBS", "GPUS"), (_row(name, one) for name, one in rows))


def _row(name: str, limits: Document) -> tuple[object, ...]:
    return (name, *("" if limits[field] is None else limits[field] for field in NAMES))


@commands.command("show")
def show_limits(context: typer.Context, project: Project = None, as_json: AsJson = False) -> None:
    """Show the limits of a project, and what it uses now."""
    with service(context) as api:
        name = project or api.get("/v1/whoami")["project"]
        _show(api.get(_path(name)), as_json=as_json)


@commands.command("set")
def set_limits(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="Name of a project.")],
    live_jobs: Limit = None,
    waiting_jobs: Limit = None,
    gpus: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Set all limits of a project: live jobs, jobs that wait, GPUs of the live jobs."""
    body = {"live_jobs": live_jobs, "waiting_jobs": waiting_jobs, "gpus": gpus}
    with service(context) as api:
        _show(api.put(_path(project), json=body), as_json=as_json)


@commands.command("reset")
def reset_limits(
    context: typer.Context,
    project: Annotated[str, typer.Argument(help="Name of a project.")],
    as_json: AsJson = False,
) -> None:
    """Give a project the default limits again."""
    with service(context) as api:
        _show(api.delete(_path(project)), as_json=as_json)


def _path(project: str) -> str:
    return f"/v1/projects/{quote(project, safe='')}/limits"


def _show(found: Document, *, as_json: bool) -> None:
    if as_json:
        show.document(found)
        return
    rows = ((name.replace("_", " "), found["usage"][name], _shown(found, name)) for name in NAMES)
    show.table((found["project"].upper(), "USED", "LIMIT"), rows)


def _shown(found: Document, name: str) -> str:
    limit = found["limits"][name]
    source = "default" if found["own"][name] is None else "set by an admin"
    return "none" if limit is None else f"{limit} ({source})"
