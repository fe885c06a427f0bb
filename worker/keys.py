"""API keys: made once, stored as hashes, checked on every request."""

import hashlib
import os
import secrets
from pathlib import Path

from sqlmodel import col, select

from worker.db import reading, writing
from worker.errors import Unauthenticated
from worker.jobs import Caller
from worker.models import ApiKey

ADMIN = "admin"


def create(name: str, role: str, project: str) -> str:
    """Make a key and return it: the only time that it can be seen."""
    secret = f"sft_{secrets.token_urlsafe(32)}"
    with writing() as session:
        session.add(ApiKey(name=name, key_hash=_hash(secret), role=role, project=project))
    return secret


def authenticate(secret: str) -> Caller:
    """Who a key belongs to. Raises Unauthenticated."""
    with reading() as session:
        query = select(ApiKey).where(ApiKey.key_hash == _hash(secret), col(ApiKey.revoked_at).is_(None))
        key = session.exec(query).first()
    if key is None:
        hint = "It was revoked, or belongs to another database; the admin's is in DATA_DIR/admin.key."
        raise Unauthenticated("This API key is not valid.", hint=hint)
    return Caller(name=key.name, project=key.project, role=key.role)


def ensure_admin_key(path: Path) -> None:
    """Write an admin key to a file that only its owner can read, unless a key that works is there."""
    if path.exists() and _is_valid(path.read_text().strip()):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(create(ADMIN, role=ADMIN, project="default") + "\n")
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
