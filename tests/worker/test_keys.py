"""API keys: the secret is seen once and stored nowhere."""

import stat
from pathlib import Path

import pytest
from sqlmodel import select

from worker import keys
from worker.db import reading, writing
from worker.errors import Unauthenticated
from worker.models import ApiKey, utcnow


def stored() -> list[ApiKey]:
    with reading() as session:
        return list(session.exec(select(ApiKey)))


def test_only_a_hash_is_stored(database: str) -> None:
    secret = keys.create("portal", role="submitter", project="team")
    assert secret not in stored()[0].model_dump_json()
    caller = keys.authenticate(secret)
    assert (caller.name, caller.role, caller.project) == ("portal", "submitter", "team")


@pytest.mark.parametrize("secret", ["", "sft_wrong", "ö"])
def test_another_secret_is_nobody(database: str, secret: str) -> None:
    keys.create("portal", role="submitter", project="team")
    with pytest.raises(Unauthenticated):
        keys.authenticate(secret)


def test_a_revoked_key_is_nobody(database: str) -> None:
    secret = keys.create("portal", role="submitter", project="team")
    with writing() as session:
        session.get_one(ApiKey, stored()[0].id).revoked_at = utcnow()
    with pytest.raises(Unauthenticated):
        keys.authenticate(secret)


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
