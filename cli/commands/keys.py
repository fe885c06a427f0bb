"""Commands for API keys, for admins."""

from typing import Annotated
from urllib.parse import quote

import typer

from cli.client.api import Document
from cli.commands import show
from cli.commands.session import AsJson, service

commands = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys (for admins).")


@commands.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Owner of the key.")],
    role: Annotated[str, typer.Option(help="viewer, submitter, operator or admin.")] = "submitter",
    project: Annotated[str | None, typer.Option(help="Default: your own project.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="RFC 3339, as 2030-01-31T12:00:00Z; default: never.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a key and print it. It cannot be shown again."""
    body = {"name": name, "role": role, "expires_at": expires_at}
    with service(context) as api:
        # No retry: if the response is lost, nobody knows the secret of the created key.
        created = api.post(
            "/v1/keys", repeatable=False, json=body | ({"project": project} if project else {})
        )
    if as_json:
        show.document(created)
        return
    show.text(created["key"])
    show.say(
        f"Key {created['id']} of {created['name']}, {created['role']} in {created['project']}. "
        "It is not shown again."
    )


@commands.command("list")
def list_keys(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of keys to list.")] = 200,
    as_json: AsJson = False,
) -> None:
    """List all keys, newest first, without their secrets."""
    with service(context) as api:
        found = api.pages("/v1/keys", limit, {})
    if as_json:
        show.document(found)
        return
    columns = ("ID", "NAME", "ROLE", "PROJECT", "CREATED", "LAST USED", "EXPIRES", "REVOKED")
    show.table(columns, (_row(key) for key in found["items"]))


def _row(key: Document) -> tuple[object, ...]:
    moments = (show.moment(key[name]) for name in ("created_at", "last_used_at", "expires_at", "revoked_at"))
    return (key["id"], key["name"], key["role"], key["project"], *moments)


@commands.command("revoke")
def revoke_key(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="ID of a key, as in `sft keys list`.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key. A repeated request changes nothing."""
    with service(context) as api:
        revoked = api.post(f"/v1/keys/{quote(key_id, safe='')}/revoke", repeatable=True)
    if as_json:
        show.document(revoked)
    else:
        show.text(f"{revoked['id']} revoked {show.moment(revoked['revoked_at'])}")
