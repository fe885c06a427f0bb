"""The audit log, for admins. No route changes or deletes an entry."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api import schemas
from api.auth import requires
from api.deps import Cursor, Limit
from api.problems import declared
from api.schemas import Moment
from worker.auth import audit
from worker.auth.audit import AuditAction, AuditFilter
from worker.auth.roles import Role

router = APIRouter(tags=["audit"], dependencies=[Depends(requires(Role.ADMIN))])

Text = Annotated[str | None, Query(max_length=255)]


@router.get("/audit", responses=declared(403, 422))
def list_audit_entries(
    since: Moment | None = None,
    until: Annotated[Moment | None, Query(description="Only entries before this moment.")] = None,
    actor: Annotated[Text, Query(description="Name of a key, or `service`.")] = None,
    action: AuditAction | None = None,
    project: Annotated[Text, Query(description="Project of the job or key.")] = None,
    target: Annotated[Text, Query(description="ID of a job or key, or name of a secret.")] = None,
    outcome: Annotated[Text, Query(description="`ok`, or the code of an error.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> schemas.AuditPage:
    """List who changed keys, jobs and limits, and who used secrets, newest first."""
    wanted = AuditFilter(since, until, actor, action, project, target, outcome)
    found, following = audit.page(wanted, cursor, limit)
    return schemas.AuditPage(items=[schemas.AuditView.of(row) for row in found], next_cursor=following)
