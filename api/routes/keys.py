"""API keys: the caller's own, and for admins create, list and revoke."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from api import schemas
from api.auth import CallerDep, requires
from api.deps import Cursor, Limit
from api.problems import declared
from api.slots import WriteSlot
from worker.auth import keys
from worker.auth.roles import Role

router = APIRouter(tags=["keys"])

KeyId = Annotated[str, Path(max_length=64, description="ID of a key.")]
ADMIN_ONLY = [Depends(requires(Role.ADMIN))]


@router.get("/whoami", responses=declared())
def whoami(caller: CallerDep) -> schemas.WhoAmI:
    """Return name, project and role of the caller's key."""
    return schemas.WhoAmI(name=caller.name, project=caller.project, role=caller.role)


@router.post("/keys", status_code=201, responses=declared(403, 413, 415, 422), dependencies=ADMIN_ONLY)
def create_key(request: schemas.KeyRequest, caller: CallerDep, _slot: WriteSlot) -> schemas.CreatedKey:
    """Create a key. Only this response contains its secret."""
    project = request.project or caller.project
    key, secret = keys.create(request.name, request.role, project, request.expires_at, caller=caller)
    return schemas.CreatedKey(**schemas.KeyView.of(key).model_dump(), key=secret)


@router.get("/keys", responses=declared(403, 422), dependencies=ADMIN_ONLY)
def list_keys(cursor: Cursor = None, limit: Limit = 50) -> schemas.KeyPage:
    """List the keys of all projects, newest first, including revoked and expired keys."""
    found, following = keys.page(cursor, limit)
    return schemas.KeyPage(items=[schemas.KeyView.of(key) for key in found], next_cursor=following)


@router.get("/keys/{key_id}", responses=declared(403, 404, 422), dependencies=ADMIN_ONLY)
def get_key(key_id: KeyId) -> schemas.KeyView:
    """Return one key."""
    return schemas.KeyView.of(keys.get(key_id))


@router.post("/keys/{key_id}/revoke", responses=declared(403, 404, 422), dependencies=ADMIN_ONLY)
def revoke_key(key_id: KeyId, caller: CallerDep, _slot: WriteSlot) -> schemas.KeyView:
    """Revoke a key: the service rejects it from now on. A repeated request changes nothing."""
    return schemas.KeyView.of(keys.revoke(key_id, caller))
