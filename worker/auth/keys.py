"""API keys: created once, stored as hashes, checked on every request."""

import hashlib
import os
import secrets
import time
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, and_, or_, update
from sqlmodel import Session, col, select

from worker.auth import audit
from worker.auth.audit import AuditAction
from worker.auth.roles import Caller, Role
from worker.clock import utcnow
from worker.db.models import ApiKey
from worker.db.session import reading, writing
from worker.errors import NotFound, SftError, Unauthenticated
from worker.telemetry.logging import logger

ADMIN = "admin"
USE_RECORDED_EVERY_SECONDS = 60.0

log = logger(__name__)

# When the use of a key was last recorded, by its id, and the uses that are not recorded yet: an entry for
# each key that is in use.
_recorded: dict[str, float] = {}
_used: dict[str, datetime] = {}


def create(
    name: str, role: Role, project: str, expires_at: datetime | None = None, *, caller: Caller | None = None
) -> tuple[ApiKey, str]:
    """Make a key. Returns it with its secret: the only time that it can be seen.

    caller: who asked for it; None is the service itself.
    """
    secret = f"sft_{secrets.token_urlsafe(32)}"
    key = ApiKey(name=name, key_hash=_hash(secret), role=role, project=project, expires_at=expires_at)
    with writing() as session:
        session.add(key)
        audit.of_key(session, AuditAction.KEY_CREATE, key, caller)
    return key, secret


def authenticate(secret: str) -> Caller:
    """Return the caller of a key. Asks the database each time: a revoked key is rejected at once.

    Raises Unauthenticated.
    """
    with reading() as session:
        key = session.exec(select(ApiKey).where(ApiKey.key_hash == _hash(secret))).first()
    if key is None:
        hint = "Keys are those of this service's database; the first admin's is in DATA_DIR/admin.key."
        raise Unauthenticated("This API key is not valid.", hint=hint)
    if key.revoked_at or _has_expired(key):
        how = "was revoked" if key.revoked_at else "has expired"
        raise Unauthenticated(f"This API key {how}.", hint="Ask an admin for a new one.")
    _note_use(key)
    return Caller(name=key.name, project=key.project, role=Role(key.role), key_id=key.id)


def _has_expired(key: ApiKey) -> bool:
    return key.expires_at is not None and key.expires_at <= utcnow()


def _note_use(key: ApiKey) -> None:
    """Keep the use of a key in memory, once a minute: a request that reads never waits for a writer."""
    now = time.monotonic()
    if now - _recorded.get(key.id, -USE_RECORDED_EVERY_SECONDS) >= USE_RECORDED_EVERY_SECONDS:
        _recorded[key.id] = now
        _used[key.id] = utcnow()


def record_uses() -> None:
    """Write the last use of each key that was used since the last call; try again later if that fails."""
    if not (uses := dict(_used)):
        return
    try:
        with writing() as session:
            for key_id, used_at in uses.items():
                session.execute(update(ApiKey).where(col(ApiKey.id) == key_id).values(last_used_at=used_at))
    except SftError as error:
        log.warning("keys.uses_not_recorded", error=error.message)
        return
    for key_id, used_at in uses.items():
        if _used.get(key_id) == used_at:  # else it was used again meanwhile
            del _used[key_id]


def still_valid(key_ids: set[str]) -> set[str]:
    """Which of some keys are neither revoked nor expired."""
    with reading() as session:
        return set(session.exec(select(ApiKey.id).where(col(ApiKey.id).in_(key_ids), _is_valid_now())))


def is_admin(name: str, project: str) -> bool:
    """Whether somebody of this name and project has a valid key of an admin."""
    query = select(ApiKey.id).where(
        ApiKey.name == name, ApiKey.project == project, ApiKey.role == Role.ADMIN, _is_valid_now()
    )
    with reading() as session:
        return session.exec(query.limit(1)).first() is not None


def _is_valid_now() -> ColumnElement[bool]:
    has_time_left = or_(col(ApiKey.expires_at).is_(None), col(ApiKey.expires_at) > utcnow())
    return and_(col(ApiKey.revoked_at).is_(None), has_time_left)


def page(after: str | None, limit: int) -> tuple[list[ApiKey], str | None]:
    """The newest keys first, after the key `after`, and the cursor of the next page."""
    query = select(ApiKey).order_by(col(ApiKey.id).desc()).limit(limit + 1)
    if after:
        query = query.where(col(ApiKey.id) < after)
    with reading() as session:
        keys = list(session.exec(query))
    return keys[:limit], keys[limit - 1].id if len(keys) > limit else None


def get(key_id: str) -> ApiKey:
    """A key. Raises NotFound."""
    with reading() as session:
        return _find(session, key_id)


def revoke(key_id: str, caller: Caller | None = None) -> ApiKey:
    """End a key's life; asking again changes nothing. Raises NotFound."""
    with writing() as session:
        key = _find(session, key_id)
        if key.revoked_at is None:
            key.revoked_at = utcnow()
            session.add(key)
            audit.of_key(session, AuditAction.KEY_REVOKE, key, caller)
    return key


def _find(session: Session, key_id: str) -> ApiKey:
    key = session.get(ApiKey, key_id)
    if key is None:
        raise NotFound(f"There is no key {key_id!r}.", hint="List them with GET /v1/keys.")
    return key


def ensure_admin_key(path: Path) -> None:
    """Write an admin key to a file that only its owner can read, unless a key that works is there."""
    if path.exists() and _is_valid(path.read_text().strip()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        _key, secret = create(ADMIN, Role.ADMIN, project="default")
        file.write(f"{secret}\n")
    fresh.rename(path)


def _is_valid(secret: str) -> bool:
    try:
        authenticate(secret)
    except Unauthenticated:
        return False
    return True


def _hash(secret: str) -> str:
    # The keys are 256 random bits: a slow hash would protect nothing more.
    return hashlib.sha256(secret.encode()).hexdigest()
