"""Settings and broker of the process that runs the tests."""

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy.pool import QueuePool

from tests.support.waiting import wait_until

Redis = Any


def forget_settings() -> None:
    """Clear the caches of settings, engine and profiles."""
    from worker import settings
    from worker.clusters import registry
    from worker.db import session

    # A thread may still serve a request that its test has left. A connection that it returns later would
    # never be closed.
    pool = session.engine().pool if session._engine.cache_info().currsize else None
    if isinstance(pool, QueuePool):
        with suppress(AssertionError):  # some tests hold one on purpose
            wait_until(lambda: not pool.checkedout(), 2)
    session.dispose()
    for cached in (settings.get_settings, registry.clusters):
        cached.cache_clear()


def use_broker(url: str, environment: pytest.MonkeyPatch) -> None:
    """Let this process enqueue into a broker without a worker."""
    from worker.broker.app import app

    environment.setenv("SFT_REDIS_URL", url)
    environment.setattr(app.conf, "broker_url", url)
    environment.setattr(app.conf, "broker_write_url", url)
    # The connection pools of the previous test point to its broker.
    app.close()
    del app.amqp
