"""`sft gc`: delete expired jobs, logs, idempotency keys and audit entries, and print what was deleted."""

from rich.console import Console
from rich.filesize import decimal
from rich.table import Column, Table

from worker.auth import audit
from worker.errors import Misconfigured
from worker.lifecycle import retention
from worker.lifecycle.retention import Removal
from worker.settings import Settings, get_settings


def remove(*, dry_run: bool) -> None:
    """Delete expired data, or only show it with `dry_run`. Raises Misconfigured, ServiceUnavailable."""
    settings = get_settings()
    if not settings.data_dir.is_dir():
        raise Misconfigured(
            f"There is no directory {settings.data_dir}.",
            hint="Name the service's data directory with --data-dir.",
        )
    console = Console()
    if dry_run:
        removals, keys = retention.expired(), retention.count_expired_keys()
        entries = audit.count_expired()
    else:
        keys, entries = retention.delete_expired_keys(), audit.delete_expired()
        removals = retention.remove_expired(limit=None)
    console.print(_table(removals, "Would be removed" if dry_run else "Removed"))
    console.print(f"Idempotency keys: {keys}")
    console.print(f"Audit entries: {entries}")
    console.print(_retention_rule(settings), highlight=False)


def _table(removals: list[Removal], title: str) -> Table:
    total = f"{sum(one.what == 'job' for one in removals)} jobs, {len(removals)} in total"
    table = Table(
        Column("Job", total, no_wrap=True),
        "What",
        "State",
        "Finished",
        Column("Size", decimal(sum(one.bytes for one in removals)), justify="right"),
        title=title,
        show_footer=True,
    )
    for one in removals:
        finished = f"{one.finished_at:%Y-%m-%d %H:%M}"
        table.add_row(one.job_id, one.what, one.state, finished, decimal(one.bytes))
    return table


def _retention_rule(settings: Settings) -> str:
    """Return how long jobs and logs are kept, and what is never removed."""
    jobs, logs = (
        f"for {days:g} days" if days else otherwise
        for days, otherwise in (
            (settings.keep_jobs_days, "indefinitely"),
            (settings.keep_logs_days, "as long as the jobs"),
        )
    )
    return (
        f"Finished jobs are kept {jobs}, their logs {logs}. "
        "Checkpoints outside the job directory are never removed."
    )
