"""Who calls, and what of it is for them: every route under /v1 asks for one of these."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from worker.auth import keys
from worker.auth.roles import Caller, Role
from worker.db.models import Job
from worker.errors import Forbidden, Unauthenticated
from worker.jobs import queries

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer sft_...`")


def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Who calls. Raises Unauthenticated."""
    if credentials is None:
        raise Unauthenticated("An API key is needed.", hint="Send Authorization: Bearer <key>.")
    caller = keys.authenticate(credentials.credentials)
    request.state.caller = caller.name  # for the line in the log
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
JobId = Annotated[str, Path(max_length=64, description="A job's id.")]


def requires(role: Role) -> Callable[[Caller], Caller]:
    """A dependency: the caller, who has to have the role or one above it. Raises Forbidden."""

    def caller_with_role(caller: CallerDep) -> Caller:
        if not caller.role.includes(role):
            raise Forbidden(
                f"This needs a key with the role {role}; yours is {caller.role}.",
                hint="Ask an admin for one.",
            )
        return caller

    return caller_with_role


def get_visible_job(job_id: JobId, caller: CallerDep) -> Job:
    """The job in the path. Raises NotFound for what is not the caller's to see."""
    job = queries.get(job_id)
    if not caller.sees(job):
        raise queries.no_such_job(job_id)
    return job


def get_changeable_job(job: Annotated[Job, Depends(get_visible_job)], caller: CallerDep) -> Job:
    """The job in the path, for who may change it. Raises NotFound, Forbidden."""
    if not caller.may_change(job):
        raise Forbidden(
            f"A key with the role {caller.role} cannot change this job.",
            hint=f"Its owner is {job.owner!r}; operators of its project can change it too.",
        )
    return job


SubmitterDep = Annotated[Caller, Depends(requires(Role.SUBMITTER))]
VisibleJob = Annotated[Job, Depends(get_visible_job)]
ChangeableJob = Annotated[Job, Depends(get_changeable_job)]
