"""Jobs and plans as text for people."""

import json
from typing import Any

from cli.client.api import Document
from cli.client.errors import ExitCode
from cli.commands import show

_ENDS = {
    "SUCCEEDED": ExitCode.OK,
    "CANCELLED": ExitCode.JOB_CANCELLED,
    "FAILED": ExitCode.JOB_FAILED,
    "LOST": ExitCode.JOB_FAILED,
}


def exit_code(job: Document) -> ExitCode:
    """Return the exit code of a command that has waited for a job."""
    return _ENDS.get(job["state"], ExitCode.ERROR)


def jobs(page: Document) -> None:
    columns = ("ID", "NAME", "STATE", "STEP", "LOSS", "CLUSTER", "OWNER", "AGE")
    show.table(columns, (_row(job) for job in page["items"]))
    if page["next_cursor"]:
        show.say(f"There are more than these {len(page['items'])}: raise --limit to see them.")


def _row(job: Document) -> tuple[object, ...]:
    loss = show.figure(job["progress"]["loss"])
    where = (job["backend"]["cluster"], job["owner"], show.age(job["created_at"]))
    return (job["id"], job["name"], state(job), steps(job), loss, *where)


def state(job: Document) -> str:
    return f"{job['state']} (stale)" if job["stale"] else str(job["state"])


def steps(job: Document) -> str:
    now = job["progress"]
    if now["step"] is None and now["total_steps"] is None:
        return ""
    return f"{now['step'] or 0}/{now['total_steps'] or '?'}"


def job(found: Document) -> None:
    now, saved = found["progress"], found["best_checkpoint"] or found["latest_checkpoint"]
    show.pairs(
        [
            ("id", found["id"]),
            ("name", found["name"]),
            ("labels", assigned(found["labels"])),
            ("owner", f"{found['owner']} in {found['project']}"),
            ("state", state(found)),
            ("reason", _reason(found)),
            ("attempt", found["attempt"]),
            ("cluster", found["backend"]["cluster"]),
            ("external id", found["backend"]["external_id"]),
            ("resources", resources(found["resources"])),
            ("step", steps(found)),
            ("loss", show.figure(now["loss"])),
            ("validation loss", show.figure(now["validation_loss"])),
            ("eta", show.duration(now["eta_seconds"]) if not found["terminal"] else ""),
            ("best checkpoint", _checkpoint(saved)),
            ("GPU-hours", found["usage"]["gpu_hours"]),
            ("created", show.moment(found["created_at"])),
            ("started", show.moment(found["started_at"])),
            ("finished", show.moment(found["finished_at"])),
            *_failure(found),
            ("allowed actions", ", ".join(found["allowed_actions"])),
        ]
    )


def _reason(found: Document) -> str | None:
    reason: str | None = (found["state_reason"] or {}).get("message")
    return reason


def _checkpoint(saved: Document | None) -> str:
    if saved is None:
        return ""
    return f"iteration {saved['iteration']} ({show.size(saved['bytes'])})"


def _failure(found: Document) -> list[tuple[str, object]]:
    """Return a failed job's failure class, cause, evidence and suggested fix."""
    failure = found["failure"]
    if not failure:
        return []
    evidence = failure["evidence"]
    return [
        ("failure", failure["class"]),
        ("cause", failure["cause"]),
        ("what to do", failure["recovery"]),
        ("evidence", evidence["line"] or "\n".join(evidence["last_lines"])),
        ("log", _log_command(found["id"], evidence)),
        ("unchanged retry", "may succeed" if failure["retryable"] else "would fail again"),
        ("suggestion", _suggestion(found["id"], failure["suggestion"])),
    ]


def _log_command(job_id: str, evidence: Document) -> str:
    """Return the command that shows the log around the evidence."""
    which = {"attempt": evidence["attempt"], "rank": evidence["rank"]}
    options = [f"--{name} {value}" for name, value in which.items() if value is not None]
    return " ".join(["sft logs", job_id, *options, "--tail 200"])


def _suggestion(job_id: str, change: Document | None) -> str:
    if change is None:
        return ""
    values = (json.dumps(change[key], ensure_ascii=False) for key in ("from", "to"))
    return f"{change['field']}: {' -> '.join(values)}\nsft retry {job_id} --apply-suggestion"


def end(found: Document) -> None:
    """Print a job's final state in one line, and its failure on stderr."""
    show.text(f"{found['id']} {found['state']}")
    for name, value in _failure(found)[1:]:
        if value:
            text = str(value).replace("\n", "\n    ")
            show.say(f"  {name}: {text}")


def assigned(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def resources(requested: Document) -> str:
    limit = show.duration(requested["time_limit_minutes"] * 60)
    return f"{requested['nodes']} x {requested['gpus_per_node']} GPUs for at most {limit}"


def plan(planned: Document, *, with_values: bool = False) -> None:
    show.pairs(
        [
            ("preset", planned["preset"] or "(a complete config)"),
            ("cluster", planned["cluster"]),
            ("resources", resources(planned["resources"])),
            ("cost", f"{planned['gpus']} GPUs, at most {planned['gpu_hours']:g} GPU-hours"),
            ("recipe", planned["recipe"]),
            ("GPU memory", _memory(planned["memory"])),
            ("directory", planned["submission"]["directory"]),
            ("plan hash", planned["plan_hash"]),
        ]
    )
    if with_values:
        values(planned["values"])
    findings(planned["checks"])
    ok = planned["ok"]
    if ok:
        show.say("This job can be submitted.", style="green")
    else:
        show.say("This job would be rejected: fix the errors above.", style="red")


def _memory(estimate: Document | None) -> str | None:
    """Return an estimate in one line; None without an estimate."""
    if estimate is None:
        return None
    names = ("weights", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{name} {estimate[f'{name}_gib']:g}" for name in names)
    return f"about {estimate['total_gib']:g} GiB ({parts})"


def values(found: Document) -> None:
    """Print the values of a run's config, and the source of each."""
    show.text("")
    rows = ((key, json.dumps(one["value"]), one["source"]) for key, one in found.items())
    show.table(("KEY", "VALUE", "FROM"), rows)


def findings(found: list[Document]) -> None:
    """Print the findings of checks, if there are any."""
    if found:
        rows = [(one["severity"], one["pointer"], one["message"], one.get("hint")) for one in found]
        show.text("")
        show.table(("SEVERITY", "WHERE", "FINDING", "WHAT TO DO"), rows)
