"""API keys: the secret is seen once and stored nowhere."""

import stat
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from worker.auth import keys
from worker.auth.roles import Role
from worker.clock import utcnow
from worker.db.models import ApiKey
from worker.db.session import reading
from worker.errors import Unauthenticated


def stored() -> list[ApiKey]:
    with reading() as session:
        return list(session.exec(select(ApiKey)))


def test_only_a_hash_is_stored(database: str) -> None:
    _key, secret = keys.create("portal", Role.SUBMITTER, "team")
    assert secret not in stored()[0].model_dump_json()
    caller = keys.authenticate(secret)
    assert (caller.name, caller.role, caller.project) == ("portal", "submitter", "team")


@pytest.mark.parametrize("secret", ["", "sft_wrong", "ö"])
def test_another_secret_is_nobody(database: str, secret: str) -> None:
    keys.create("portal", Role.SUBMITTER, "team")
    with pytest.raises(Unauthenticated):
        keys.authenticate(secret)


def test_a_revoked_key_is_nobody_and_when_it_was_revoked_stays(database: str) -> None:
    key, secret = keys.create("portal", Role.SUBMITTER, "team")
    keys.authenticate(secret)
    first = keys.revoke(key.id)
    assert keys.revoke(key.id).revoked_at == first.revoked_at
    with pytest.raises(Unauthenticated, match="was revoked"):
        keys.authenticate(secret)
    assert keys.still_valid({key.id}) == set()


def test_a_key_is_somebody_until_it_expires(database: str) -> None:
    later, ago = utcnow() + timedelta(minutes=5), utcnow() - timedelta(seconds=1)
    good, secret = keys.create("portal", Role.VIEWER, "team", expires_at=later)
    old, expired = keys.create("portal", Role.VIEWER, "team", expires_at=ago)
    assert keys.authenticate(secret).name == "portal"
    with pytest.raises(Unauthenticated, match="has expired"):
        keys.authenticate(expired)
    assert keys.still_valid({good.id, old.id}) == {good.id}


def test_use_is_noted_once_a_minute(database: str, environment: pytest.MonkeyPatch) -> None:
    key, secret = keys.create("portal", Role.VIEWER, "team")
    assert keys.get(key.id).last_used_at is None
    keys.authenticate(secret)
    keys.record_uses()
    first = keys.get(key.id).last_used_at
    assert first is not None
    keys.authenticate(secret)
    keys.record_uses()
    assert keys.get(key.id).last_used_at == first
    now = time.monotonic()
    environment.setattr(keys.time, "monotonic", lambda: now + 61)
    keys.authenticate(secret)
    keys.record_uses()
    assert keys.get(key.id).last_used_at > first


def test_the_admin_key_is_written_once_for_its_owner_alone(database: str, tmp_path: Path) -> None:
    path = tmp_path / "data" / "admin.key"
    keys.ensure_admin_key(path)
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.authenticate(first.strip()).role == "admin"
    keys.ensure_admin_key(path)
    assert (path.read_text(), len(stored())) == (first, 1)


def test_an_admin_key_that_this_database_does_not_know_is_replaced(database: str, tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("sft_of-another-database\n")
    path.chmod(0o644)
    keys.ensure_admin_key(path)
    assert keys.authenticate(path.read_text().strip()).role == "admin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
