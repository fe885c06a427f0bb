"""Limits of projects: for admins to set, for the callers of a project to read."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from api import schemas
from api.auth import CallerDep, requires
from api.problems import declared
from api.slots import WriteSlot
from worker.auth.roles import Role
from worker.errors import NotFound
from worker.limits import projects
from worker.limits.projects import ProjectLimits

router = APIRouter(tags=["limits"])

ProjectName = Annotated[str, Path(pattern=schemas.PROJECT_NAME, description="Name of a project.")]
ADMIN_ONLY = [Depends(requires(Role.ADMIN))]


@router.get("/limits", responses=declared(403), dependencies=ADMIN_ONLY)
def list_limits() -> schemas.LimitsView:
    """Return the default limits of a project, and those that admins have set."""
    return schemas.LimitsView(defaults=projects.defaults(), projects=projects.all_own())


@router.get("/projects/{project}/limits", responses=declared(404, 422))
def get_limits(project: ProjectName, caller: CallerDep) -> schemas.ProjectView:
    """Return what a project may use at a time, and what it uses now."""
    if caller.seen_project not in (None, project):
        raise NotFound(f"There is no project {project!r}.", hint="GET /v1/whoami names yours.")
    return schemas.ProjectView.of(project)


@router.put("/projects/{project}/limits", responses=declared(403, 413, 415, 422), dependencies=ADMIN_ONLY)
def set_limits(
    project: ProjectName, limits: ProjectLimits, caller: CallerDep, _slot: WriteSlot
) -> schemas.ProjectView:
    """Set the limits of a project, all of them: null, or no value, is the default.

    Jobs that clusters have already keep running. Jobs that wait and have room now are submitted.
    """
    projects.set_own(project, limits, caller)
    return schemas.ProjectView.of(project)


@router.delete("/projects/{project}/limits", responses=declared(403, 422), dependencies=ADMIN_ONLY)
def reset_limits(project: ProjectName, caller: CallerDep, _slot: WriteSlot) -> schemas.ProjectView:
    """Give a project the default limits again. A repeated request changes nothing."""
    projects.set_own(project, ProjectLimits(), caller)
    return schemas.ProjectView.of(project)
