"""Commands for jobs: plan, submit, list, show, wait, cancel, pause, resume, retry."""

from typing import Annotated, Any
from uuid import uuid4

import typer

from cli.client.api import Api, job_path
from cli.client.errors import ExitCode
from cli.client.follow import until_ended
from cli.client.retry import RetryPolicy
from cli.commands import job_view, show
from cli.commands.body import Body, JobOptions, pairs
from cli.commands.progress import Bars
from cli.commands.session import AsJson, JobId, Timeout, service, warn_of_retry

Arguments = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILE|-] [KEY=VALUE]...",
        help="The job's body in JSON or YAML, and overrides of its config.",
    ),
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the job.")]
Config = Annotated[
    str | None, typer.Option("--config", "-c", help="Name of a preset, or file with a complete config.")
]
Cluster = Annotated[str | None, typer.Option("--cluster", help="Name of the cluster.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="A label; can be repeated.")
]

IdempotencyKey = Annotated[
    str | None, typer.Option(help="Requests with the same key and body create one job; default: random.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job has ended.")]


def plan(
    context: typer.Context,
    arguments: Arguments = None,
    name: Name = None,
    config: Config = None,
    cluster: Cluster = None,
    label: Labels = None,
    with_values: Annotated[
        bool, typer.Option("--values", help="All values of the config, and the source of each.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Plan a job without storing it; exit code 1 if it would be rejected."""
    body = {"name": "plan", **JobOptions(arguments or (), name, config, cluster, label or ()).body()}
    with service(context) as api:
        planned = api.post("/v1/jobs:plan", repeatable=True, json=body)
    show.document(planned) if as_json else job_view.plan(planned, with_values=with_values)
    if not planned["ok"]:
        raise typer.Exit(ExitCode.ERROR)


def submit(
    context: typer.Context,
    arguments: Arguments = None,
    name: Name = None,
    config: Config = None,
    cluster: Cluster = None,
    label: Labels = None,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job. With --wait the exit code is that of the job's final state."""
    body = JobOptions(arguments or (), name, config, cluster, label or ()).body()
    create(context, "/v1/jobs", body, idempotency_key, wait=wait, timeout=timeout, as_json=as_json)


def create(
    context: typer.Context,
    path: str,
    body: Body,
    idempotency_key: str | None,
    *,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Create a job by a POST to a path, then wait for its end or print how to follow it."""
    # One key for all retries: a lost response does not create a second job.
    headers = {"Idempotency-Key": idempotency_key or f"sft-{uuid4()}"}
    with service(context) as api:
        job = api.post(path, repeatable=True, json=body, headers=headers)
        if wait:
            show.say(f"Submitted {job['id']}.")
            _wait(api, [job["id"]], timeout, as_json=as_json)
        elif as_json:
            show.document(job)
        else:
            show.text(job["id"])
            show.say(f"Follow it: sft wait {job['id']}, sft logs -f {job['id']}")


def wait(
    context: typer.Context,
    jobs: Annotated[list[str], typer.Argument(metavar="JOB...", help="IDs of jobs.")],
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Wait until jobs have ended; the exit code tells their final states. Continues across service restarts.

    Prints each job when it ends, with --json on one line.
    """
    with service(context) as api:
        _wait(api, jobs, timeout, as_json=as_json)


def _wait(api: Api, job_ids: list[str], timeout: float | None, *, as_json: bool) -> None:
    """Wait for all jobs. Raises typer.Exit with the code of the worst final state."""
    codes = set()
    with Bars() as bars:
        for job in until_ended(api, job_ids, RetryPolicy(warn_of_retry, timeout=timeout)):
            bars.show(job)
            if job["terminal"]:
                codes.add(job_view.exit_code(job))
                show.line(job) if as_json else job_view.end(job)
    worst = (ExitCode.JOB_FAILED, ExitCode.JOB_CANCELLED, ExitCode.ERROR, ExitCode.OK)
    raise typer.Exit(min(codes, key=worst.index))


def list_jobs(
    context: typer.Context,
    state: Annotated[list[str] | None, typer.Option(help="Only jobs in this state; can be repeated.")] = None,
    owner: Annotated[str | None, typer.Option(help="Only jobs of this owner.")] = None,
    cluster: Annotated[str | None, typer.Option(help="Only jobs on this cluster.")] = None,
    project: Annotated[str | None, typer.Option(help="Only jobs of this project (for admins).")] = None,
    label: Labels = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of jobs to list.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    labels = {f"labels[{key}]": value for key, value in pairs(label or ()).items()}
    filters = {"owner": owner, "cluster": cluster, "project": project}
    params = {key: value for key, value in filters.items() if value is not None}
    states = {"state": [one.upper() for one in state]} if state else {}
    with service(context) as api:
        page = api.pages("/v1/jobs", limit, {**params, **labels, **states})
    show.document(page) if as_json else job_view.jobs(page)


def show_job(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Show a job."""
    with service(context) as api:
        found = api.get(job_path(job))
    show.document(found) if as_json else job_view.job(found)


def cancel(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Request a job's cancellation."""
    _act(context, job, "cancel", repeatable=True, as_json=as_json)


def pause(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Request that a running job saves and stops; it keeps no GPUs."""
    _act(context, job, "pause", repeatable=True, as_json=as_json)


def resume(context: typer.Context, job: JobId, as_json: AsJson = False) -> None:
    """Resume a paused job from its last complete checkpoint."""
    _act(context, job, "resume", repeatable=False, as_json=as_json)


def retry(
    context: typer.Context,
    job: JobId,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the job's config.")
    ] = None,
    apply_suggestion: Annotated[
        bool, typer.Option("--apply-suggestion", help="Apply the failure's suggested fix (see `sft show`).")
    ] = False,
    time_limit: Annotated[
        int | None, typer.Option("--time-limit", min=1, metavar="MINUTES", help="New time limit.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Retry a job that did not succeed: another attempt, from its last complete checkpoint."""
    pairs(overrides or ())
    changes = {
        "overrides": overrides,
        "apply_suggestion": apply_suggestion,
        "resources": {"time_limit_minutes": time_limit} if time_limit else None,
    }
    body = {name: value for name, value in changes.items() if value}
    _act(context, job, "retry", repeatable=False, as_json=as_json, json=body)


def _act(
    context: typer.Context, job_id: str, action: str, *, repeatable: bool, as_json: bool, **request: Any
) -> None:
    with service(context) as api:
        job = api.post(job_path(job_id, action), repeatable=repeatable, **request)
    show.document(job) if as_json else show.text(f"{job['id']} {job['state']}")
