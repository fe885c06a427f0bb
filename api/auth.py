"""Authentication and authorization as dependencies: every route under /v1 declares one of these."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from worker.auth import audit, keys
from worker.auth.roles import Caller, Role
from worker.db.models import Job
from worker.errors import Forbidden, Unauthenticated
from worker.jobs import queries

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer sft_...`")


def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Return the caller of the request. Raises Unauthenticated."""
    if credentials is None:
        raise Unauthenticated("An API key is required.", hint="Send the header Authorization: Bearer <key>.")
    caller = keys.authenticate(credentials.credentials)
    request.state.caller = caller.name  # for the request log
    audit.authenticated(caller)
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
JobId = Annotated[str, Path(max_length=64, description="ID of a job.")]


def requires(role: Role) -> Callable[[Caller], Caller]:
    """Return a dependency: the caller, if its role includes `role`. The dependency raises Forbidden."""

    def caller_with_role(caller: CallerDep) -> Caller:
        if not caller.role.includes(role):
            raise Forbidden(
                f"This request needs a key with the role {role}; yours is {caller.role}.",
                hint="Ask an admin for such a key.",
            )
        return caller

    return caller_with_role


def get_visible_job(job_id: JobId, caller: CallerDep) -> Job:
    """Return the job in the path. Raises NotFound, also for a job that the caller may not see."""
    job = queries.get(job_id)
    if not caller.sees(job):
        raise queries.no_such_job(job_id)
    return job


def get_changeable_job(job: Annotated[Job, Depends(get_visible_job)], caller: CallerDep) -> Job:
    """Return the job in the path if the caller may change it. Raises NotFound, Forbidden."""
    if not caller.may_change(job):
        raise Forbidden(
            f"A key with the role {caller.role} cannot change this job.",
            hint=f"Its owner {job.owner!r} and operators of its project can change it.",
        )
    return job


SubmitterDep = Annotated[Caller, Depends(requires(Role.SUBMITTER))]
VisibleJob = Annotated[Job, Depends(get_visible_job)]
ChangeableJob = Annotated[Job, Depends(get_changeable_job)]
