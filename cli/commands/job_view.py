"""Jobs and plans as people see them."""

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
    """What a command that waited for a job ends with."""
    return _ENDS.get(job["state"], ExitCode.ERROR)


def jobs(page: Document) -> None:
    columns = ("ID", "NAME", "STATE", "STEP", "LOSS", "CLUSTER", "OWNER", "AGE")
    show.table(columns, (_row(job) for job in page["items"]))
    if page["next_cursor"]:
        show.say(f"There are more than these {len(page['items'])}: --limit.")


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
            ("why", _why(found)),
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
            ("possible now", ", ".join(found["allowed_actions"])),
        ]
    )


def _why(found: Document) -> str | None:
    reason: str | None = (found["state_reason"] or {}).get("message")
    return reason


def _checkpoint(saved: Document | None) -> str:
    if saved is None:
        return ""
    return f"iteration {saved['iteration']} ({show.size(saved['bytes'])})"


def _failure(found: Document) -> list[tuple[str, object]]:
    """Why a job failed, where that shows, and what may help."""
    failure = found["failure"]
    if not failure:
        return []
    evidence = failure["evidence"]
    return [
        ("failure", failure["class"]),
        ("cause", failure["cause"]),
        ("what to do", failure["recovery"]),
        ("evidence", evidence["line"] or "\n".join(evidence["last_lines"])),
        ("read more", _log_of(found["id"], evidence)),
        ("the same again", "may succeed" if failure["retryable"] else "would fail again"),
        ("suggestion", _suggestion(found["id"], failure["suggestion"])),
    ]


def _log_of(job_id: str, evidence: Document) -> str:
    """The command that shows the lines around the evidence."""
    which = {"attempt": evidence["attempt"], "rank": evidence["rank"]}
    options = [f"--{name} {value}" for name, value in which.items() if value is not None]
    return " ".join(["sft logs", job_id, *options, "--tail 200"])


def _suggestion(job_id: str, change: Document | None) -> str:
    if change is None:
        return ""
    values = (json.dumps(change[key], ensure_ascii=False) for key in ("from", "to"))
    return f"{change['field']}: {' -> '.join(values)}\nsft retry {job_id} --apply-suggestion"


def end(found: Document) -> None:
    """How a job ended, in a line; on stderr why."""
    show.text(f"{found['id']} {found['state']}")
    for name, value in _failure(found)[1:]:
        if value:
            text = str(value).replace("\n", "\n    ")
            show.say(f"  {name}: {text}")


def assigned(values: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())


def resources(wanted: Document) -> str:
    limit = show.duration(wanted["time_limit_minutes"] * 60)
    return f"{wanted['nodes']} x {wanted['gpus_per_node']} GPUs for at most {limit}"


def plan(planned: Document, *, with_values: bool = False) -> None:
    show.pairs(
        [
            ("preset", planned["preset"] or "(a whole config)"),
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
    show.say("It can be submitted." if ok else "It would be refused.", style="green" if ok else "red")


def _memory(estimate: Document | None) -> str | None:
    """An estimate in one line; None where there is none."""
    if estimate is None:
        return None
    names = ("weights", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{name} {estimate[f'{name}_gib']:g}" for name in names)
    return f"about {estimate['total_gib']:g} GiB ({parts})"


def values(found: Document) -> None:
    """What a run's config sets, and who says so."""
    show.text("")
    rows = ((key, json.dumps(one["value"]), one["source"]) for key, one in found.items())
    show.table(("KEY", "VALUE", "FROM"), rows)


def findings(found: list[Document]) -> None:
    """What checks had to say, if anything."""
    if found:
        rows = [(one["severity"], one["pointer"], one["message"], one.get("hint")) for one in found]
        show.text("")
        show.table(("SEVERITY", "WHERE", "FINDING", "WHAT TO DO"), rows)
