"""Engine and transactions. The only module that knows which database it is."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Delete, Engine, Update, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session, SQLModel

from worker.errors import ServiceUnavailable, StorageFull
from worker.settings import get_settings

LOCK_TIMEOUT_SECONDS = 5
# The second: no page of the index that connections share could be added. A failed write of any other kind
# is SQLITE_FULL where the disk is full.
SQLITE_FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
POSTGRES_FULL = "53100"  # SQLSTATE disk_full

_building = threading.Lock()


def build_engine(url: str) -> Engine:
    """An engine whose transactions mean the same on SQLite and on Postgres."""
    if not url.startswith("sqlite"):
        args = {"connect_timeout": LOCK_TIMEOUT_SECONDS, "options": "-c statement_timeout=15000"}
        return create_engine(url, pool_pre_ping=True, pool_timeout=LOCK_TIMEOUT_SECONDS, connect_args=args)
    engine = create_engine(url, connect_args={"timeout": LOCK_TIMEOUT_SECONDS})
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(connection: Any, _record: Any) -> None:
    # The driver's own idea of when a transaction begins is switched off: see _sqlite_begin.
    connection.isolation_level = None
    # temp_store: a large query must not need the disk.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    # A read transaction that turns into a writing one fails at once when another process
    # wrote in between; taking the write lock at the beginning waits for it instead.
    writing = connection.get_execution_options().get("sft_writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def engine() -> Engine:
    """The process's engine, built once: of many threads that ask first, one builds it."""
    with _building:
        return _engine()


@lru_cache
def _engine() -> Engine:
    return build_engine(get_settings().sql_url)


def dispose() -> None:
    """Close all connections; whoever asks next gets an engine of the settings of then."""
    with _building:
        if _engine.cache_info().currsize:
            _engine().dispose()
            _engine.cache_clear()


@contextmanager
def translated() -> Iterator[None]:
    """Raise ServiceUnavailable where the database does not answer, or is busy; StorageFull without space."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        if _is_full(error):
            raise StorageFull("The disk of the database") from error
        raise ServiceUnavailable("The database cannot be reached.", hint="Try again shortly.") from error
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise ServiceUnavailable("The database connection was lost.", hint="Try again shortly.") from error


def _is_full(error: SQLAlchemyError) -> bool:
    original = getattr(error, "orig", None)  # that of the driver
    name, state = (getattr(original, key, None) for key in ("sqlite_errorname", "sqlstate"))
    return name in SQLITE_FULL or state == POSTGRES_FULL


@contextmanager
def writing() -> Iterator[Session]:
    """A transaction that writes: committed at the end of the block, rolled back if it raises."""
    bind = engine().execution_options(sft_writing=True)
    with translated(), Session(bind, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading() -> Iterator[Session]:
    """A consistent view of the database for reading."""
    with translated(), Session(engine(), expire_on_commit=False) as session:
        yield session


def serialize(session: Session, name: str) -> None:
    """Let one transaction at a time continue from here; the others wait until it has ended."""
    if session.get_bind().dialect.name == "postgresql":  # on SQLite every transaction that writes does so
        session.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": name})


def affected(session: Session, statement: Update | Delete) -> int:
    """Run an UPDATE or DELETE and return how many rows it changed: zero where another writer was first."""
    result = session.execute(statement.execution_options(synchronize_session=False))
    assert isinstance(result, CursorResult)
    return result.rowcount


def upsert(session: Session, rows: Sequence[SQLModel]) -> None:
    """Insert rows of one table in one statement; those whose key is there already are replaced."""
    if not rows:
        return
    table = SQLModel.metadata.tables[str(type(rows[0]).__tablename__)]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    replaced = {column.name: statement.excluded[column.name] for column in table.c if not column.primary_key}
    statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=replaced)
    session.execute(statement, [row.model_dump() for row in rows])


def ping() -> None:
    """Raises ServiceUnavailable where the database does not answer."""
    with reading() as session:
        session.connection().execute(text("SELECT 1"))
