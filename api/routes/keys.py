"""API keys."""

from fastapi import APIRouter

from api import schemas
from api.deps import CallerDep
from api.problems import declared

router = APIRouter(tags=["keys"])


@router.get("/whoami", responses=declared())
def whoami(caller: CallerDep) -> schemas.WhoAmI:
    """Whose key this is."""
    return schemas.WhoAmI(name=caller.name, project=caller.project, role=caller.role)
