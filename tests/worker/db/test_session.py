"""Transactions mean the same on SQLite and on Postgres, and an absent database is a ServiceUnavailable."""

import sqlite3
import threading
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.support.concurrency import at_once
from tests.support.process import forget_settings
from worker.db import session
from worker.db.models import ApiKey
from worker.db.session import ping, reading, writing
from worker.errors import ServiceUnavailable, StorageFull


def keys() -> int:
    with reading() as session:
        return int(session.connection().execute(text("SELECT count(*) FROM api_key")).scalar_one())


def test_a_block_that_raises_writes_nothing(database: str) -> None:
    def write() -> None:
        with writing() as session:
            session.add(ApiKey(name="x", key_hash="x", role="admin", project="p"))
            session.flush()
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write()
    assert keys() == 0


def test_many_writers_at_once_all_get_through(database: str) -> None:
    names = iter(range(100))
    lock = threading.Lock()

    def write() -> None:
        with lock:
            name = str(next(names))
        with writing() as session:
            session.connection().execute(text("SELECT count(*) FROM api_key")).scalar_one()  # reads first
            session.add(ApiKey(name=name, key_hash=name, role="admin", project="p"))

    assert at_once(20, write) == [None] * 20
    assert keys() == 20


def test_a_locked_sqlite_is_unavailable_and_not_a_bug(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setattr(session, "LOCK_TIMEOUT_SECONDS", 0.1)
    environment.setenv("SFT_DATABASE_URL", f"sqlite:///{tmp_path / 'x.db'}")
    forget_settings()

    def write() -> None:
        with writing() as session:
            session.connection().execute(text("SELECT 1"))

    write()
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(ServiceUnavailable):
        write()
    ping()  # reading continues
    other.execute("ROLLBACK")
    other.close()
    write()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_sqlite_keeps_a_write_ahead_log(database: str) -> None:
    with reading() as session:
        assert session.connection().execute(text("PRAGMA journal_mode")).scalar_one() == "wal"


def test_a_database_that_is_not_there_is_unavailable(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("SFT_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    forget_settings()
    with pytest.raises(ServiceUnavailable):
        ping()


# How to make a database report that its disk is full: SQLite's own limit, and Postgres' own code.
FILL = {
    "sqlite": ["PRAGMA max_page_count = 1", "CREATE TABLE more AS SELECT zeroblob(1000000)"],
    "postgres": ["DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$"],
}


def test_a_database_without_space_is_full_and_writes_nothing(database: str) -> None:
    before = keys()

    def write() -> None:
        with writing() as session:
            session.add(ApiKey(name="x", key_hash="x", role="admin", project="p"))
            session.flush()
            for statement in FILL["sqlite" if database.startswith("sqlite") else "postgres"]:
                session.connection().exec_driver_sql(statement)

    with pytest.raises(StorageFull, match="no space left"):
        write()
    assert keys() == before
