"""API keys: whose they are, and for admins their making and end."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from api import schemas
from api.auth import CallerDep, requires
from api.deps import Cursor, Limit
from api.problems import declared
from worker.auth import keys
from worker.auth.roles import Role

router = APIRouter(tags=["keys"])

KeyId = Annotated[str, Path(max_length=64, description="A key's id.")]
ADMIN_ONLY = [Depends(requires(Role.ADMIN))]


@router.get("/whoami", responses=declared())
def whoami(caller: CallerDep) -> schemas.WhoAmI:
    """Whose key this is."""
    return schemas.WhoAmI(name=caller.name, project=caller.project, role=caller.role)


@router.post("/keys", status_code=201, responses=declared(403, 413, 415, 422), dependencies=ADMIN_ONLY)
def create_key(wanted: schemas.KeyRequest, caller: CallerDep) -> schemas.CreatedKey:
    """Make a key. Its secret is in this answer and never again."""
    project = wanted.project or caller.project
    key, secret = keys.create(wanted.name, wanted.role, project, wanted.expires_at)
    return schemas.CreatedKey(**schemas.KeyView.of(key).model_dump(), key=secret)


@router.get("/keys", responses=declared(403, 422), dependencies=ADMIN_ONLY)
def list_keys(cursor: Cursor = None, limit: Limit = 50) -> schemas.KeyPage:
    """List the keys of all projects, newest first, also those that were revoked or have expired."""
    found, following = keys.page(cursor, limit)
    return schemas.KeyPage(items=[schemas.KeyView.of(key) for key in found], next_cursor=following)


@router.get("/keys/{key_id}", responses=declared(403, 404, 422), dependencies=ADMIN_ONLY)
def get_key(key_id: KeyId) -> schemas.KeyView:
    """One key."""
    return schemas.KeyView.of(keys.get(key_id))


@router.post("/keys/{key_id}/revoke", responses=declared(403, 404, 422), dependencies=ADMIN_ONLY)
def revoke_key(key_id: KeyId) -> schemas.KeyView:
    """Revoke a key: it is refused from now on. Asking again changes nothing."""
    return schemas.KeyView.of(keys.revoke(key_id))
