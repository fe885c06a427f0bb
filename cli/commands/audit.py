"""The audit log as a table, for admins."""

from typing import Annotated

import typer

from cli.client.api import Document
from cli.commands import show
from cli.commands.session import AsJson, service

Moment = Annotated[str | None, typer.Option(metavar="TIME", help="RFC 3339, as 2030-01-31T12:00:00Z.")]
COLUMNS = ("TIME", "ACTOR", "ROLE", "ACTION", "TARGET", "PROJECT", "OUTCOME", "FROM", "REQUEST")


def audit(
    context: typer.Context,
    since: Moment = None,
    until: Moment = None,
    actor: Annotated[str | None, typer.Option(help="Name of a key, or service.")] = None,
    action: Annotated[str | None, typer.Option(help="Such as key.create, job.cancel or secret.use.")] = None,
    project: Annotated[str | None, typer.Option(help="Project of the job or key.")] = None,
    target: Annotated[str | None, typer.Option(help="ID of a job or key, or name of a secret.")] = None,
    outcome: Annotated[str | None, typer.Option(help="ok, or the code of an error.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of entries to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List who changed keys and jobs, and who used secrets, newest first (for admins)."""
    given = {
        "since": since, "until": until, "actor": actor, "action": action, "project": project,
        "target": target, "outcome": outcome,
    }  # fmt: skip
    with service(context) as api:
        found = api.pages("/v1/audit", limit, {name: value for name, value in given.items() if value})
    if as_json:
        show.document(found)
        return
    show.table(COLUMNS, (_row(entry) for entry in found["items"]))


def _row(entry: Document) -> tuple[object, ...]:
    fields = ("actor", "role", "action", "target", "project", "outcome", "address", "request_id")
    return (show.moment(entry["at"]), *(entry[name] for name in fields))
