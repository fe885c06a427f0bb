"""Authentication and authorization as dependencies: every route under /v1 declares one of these."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from api.deps import OpenRequestsDep
from api.rate_limits import rate_limits_of
from worker.auth import audit, keys
from worker.auth.roles import Caller, Role
from worker.db.models import Job
from worker.errors import Forbidden, Unauthenticated
from worker.jobs import queries

_bearer = HTTPBearer(auto_error=False, description="An API key: `Authorization: Bearer sft_...`")


def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Return the caller of the request, which is counted. Raises Unauthenticated, TooManyRequests."""
    limits = rate_limits_of(request.app)
    if credentials is None:
        limits.count_stranger(request)
        raise Unauthenticated("An API key is required.", hint="Send the header Authorization: Bearer <key>.")
    try:
        caller = keys.authenticate(credentials.credentials)
    except Unauthenticated:
        # Only now: others at the address, as behind one proxy, have valid keys. A look-up costs one query,
        # and keys of 256 random bits cannot be guessed.
        limits.count_stranger(request)
        raise
    request.state.caller = caller.name  # for the request log
    audit.authenticated(caller)
    limits.count_caller(request, caller.key_id)
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


async def count_open(open_requests: OpenRequestsDep, caller: CallerDep) -> AsyncIterator[None]:
    """Count the request until its answer is complete. Raises TooManyOpenRequests."""
    with open_requests.one_more(caller.key_id):
        yield


STAYS_OPEN = [Depends(count_open)]
SubmitterDep = Annotated[Caller, Depends(requires(Role.SUBMITTER))]
VisibleJob = Annotated[Job, Depends(get_visible_job)]
ChangeableJob = Annotated[Job, Depends(get_changeable_job)]
