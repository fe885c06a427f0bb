"""Commands that show what a service offers: clusters, presets, whoami."""

import json
from typing import Annotated
from urllib.parse import quote

import typer

from cli.client.api import Document
from cli.commands import job_view, show
from cli.commands.session import AsJson, service


def clusters(context: typer.Context, as_json: AsJson = False) -> None:
    """List the clusters that a job can name."""
    with service(context) as api:
        found = api.get("/v1/clusters")
    if as_json:
        show.document(found)
        return
    columns = ("NAME", "KIND", "DEFAULT", "JOB DEFAULT", "JOB LIMIT", "LIVE JOBS", "DESCRIPTION")
    show.table(columns, (_cluster(one) for one in found["items"]))


def _cluster(one: Document) -> tuple[object, ...]:
    sizes = (job_view.resources(one["defaults"]), job_view.resources(one["limits"]))
    live_jobs = job_view.assigned(one["live_jobs"])
    return (
        one["name"],
        one["executor"],
        "yes" if one["default"] else "",
        *sizes,
        live_jobs,
        one["description"],
    )


def presets(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Preset to show: its parameters and values.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the presets that a job can name, or show one preset."""
    with service(context) as api:
        found = api.get(f"/v1/presets/{quote(name, safe='')}" if name else "/v1/presets")
    if as_json:
        show.document(found)
    elif name:
        _preset(found)
    else:
        show.table(("NAME", "DESCRIPTION"), ((one["name"], one["description"]) for one in found["items"]))


def _preset(found: Document) -> None:
    show.pairs([("preset", found["name"]), ("recipe", found["recipe"]), ("", found["description"])])
    show.text("")
    rows = (
        (one["name"], json.dumps(one["value"]), _choices(one), one["description"])
        for one in found["parameters"]
    )
    show.table(("PARAMETER", "VALUE", "CHOICES", "DESCRIPTION"), rows)
    job_view.values(found["values"])


def _choices(parameter: Document) -> str:
    return ", ".join(json.dumps(choice) for choice in parameter["choices"] or ())


def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the owner, role and project of the API key, and the service's URL."""
    with service(context) as api:
        found = api.get("/v1/whoami")
    if as_json:
        show.document(found)
    else:
        show.text(f"{found['name']} ({found['role']}) in {found['project']} at {api.url}")
