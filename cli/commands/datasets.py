"""Command for packed data: inspect a dataset and show its problems."""

from typing import Annotated

import typer

from cli.client.api import Document
from cli.client.errors import ExitCode
from cli.commands import job_view, show
from cli.commands.session import AsJson, service

commands = typer.Typer(no_args_is_help=True, help="Inspect packed data.")


@commands.callback()
def main() -> None:
    """Inspect packed data."""


@commands.command("inspect")
def inspect(
    context: typer.Context,
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Directory, shard or pattern, as the service sees it.")
    ],
    full: Annotated[bool, typer.Option("--full", help="Read every row instead of a sample.")] = False,
    seq_length: Annotated[int | None, typer.Option(help="Sequence length of the job.")] = None,
    model: Annotated[str | None, typer.Option("--hf-model-path", help="Model of the job.")] = None,
    global_batch_size: Annotated[int | None, typer.Option(help="Global batch size of the job.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Name of the cluster.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show content and problems of packed data; exit code 1 if a job with them would be rejected."""
    job = {"seq_length": seq_length, "hf_model_path": model, "global_batch_size": global_batch_size}
    body = {"path": path, "cluster": cluster, "full": full, **job}
    with service(context) as api:
        found = api.post("/v1/datasets:inspect", repeatable=True, json=body)
    show.document(found) if as_json else _show(found)
    if not found["ok"]:
        raise typer.Exit(ExitCode.ERROR)


def _show(found: Document) -> None:
    packing = found["packing"] or Document(tokenizer=None, pack_size=None, vocab_size=None, mask=None)
    show.pairs(
        [
            ("path", found["path"]),
            ("tokens", f"{found['tokens']:,}{'' if found['tokens_exact'] else ' (estimated)'}"),
            ("trained", _share(found["trained_token_share"])),
            ("longest pack", found["longest_pack"]),
            ("packed with", packing["tokenizer"]),
            ("pack size", packing["pack_size"]),
            ("vocabulary", packing["vocab_size"]),
            ("rule of masks", packing.get("mask")),
            ("rows read", f"{found['rows_read']:,} of {found['rows']:,} ({show.size(found['bytes_read'])})"),
        ]
    )
    if found["splits"]:
        show.text("")
        rows = [
            (name, *(f"{one[key]:,}" for key in ("shards", "rows", "tokens")))
            for name, one in found["splits"].items()
        ]
        show.table(("SPLIT", "SHARDS", "ROWS", "TOKENS"), rows)
    job_view.findings(found["problems"])
    ok = found["ok"]
    if ok:
        show.say("No errors in the rows that were read.", style="green")
    else:
        show.say("These data cannot be used: fix the errors above.", style="red")


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%} of the tokens read"
