"""Settings and broker of the process that runs the tests."""

from typing import Any

import pytest

Redis = Any


def forget_settings() -> None:
    """Clear the caches of settings, engine and profiles."""
    from worker import settings
    from worker.clusters import registry
    from worker.db.session import dispose

    dispose()
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
