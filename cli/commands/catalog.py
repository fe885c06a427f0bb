"""What a service offers, and to whom: clusters, presets, whoami."""

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
    columns = ("NAME", "KIND", "DEFAULT", "A JOB GETS", "AT MOST", "LIVE JOBS", "DESCRIPTION")
    show.table(columns, (_cluster(one) for one in found["items"]))


def _cluster(one: Document) -> tuple[object, ...]:
    sizes = (job_view.resources(one["defaults"]), job_view.resources(one["limits"]))
    busy = job_view.assigned(one["live_jobs"])
    return (one["name"], one["executor"], "yes" if one["default"] else "", *sizes, busy, one["description"])


def presets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the training configs that a job can name."""
    with service(context) as api:
        found = api.get("/v1/presets")
    if as_json:
        show.document(found)
    else:
        show.table(("NAME", "DESCRIPTION"), ((one["name"], one["description"]) for one in found["items"]))


def whoami(context: typer.Context, as_json: AsJson = False) -> None:
    """Tell whose key this is, and of which service."""
    with service(context) as api:
        found = api.get("/v1/whoami")
    if as_json:
        show.document(found)
    else:
        show.text(f"{found['name']} ({found['role']}) in {found['project']} at {api.url}")
