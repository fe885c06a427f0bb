"""What has to be in order before the service starts: directory, profiles, database, key, broker."""

import os
from pathlib import Path

from kombu.connection import Connection
from sqlalchemy.engine import make_url

from worker.auth import keys
from worker.clusters.registry import clusters
from worker.db import migrate
from worker.errors import Misconfigured, ServiceUnavailable
from worker.settings import get_settings
from worker.telemetry import tracing

BROKER_TIMEOUT_SECONDS = 5


def initialize(data_dir: Path) -> None:
    """Make the data directory, read the profiles, bring the database up to date, write the admin key.

    Raises Misconfigured, naming what is wrong.
    """
    use(data_dir)
    settings = get_settings()
    make_directory(settings.data_dir / "inputs")
    tracing.check()
    clusters()  # a wrong profile is said now, not to each request
    try:
        migrate.upgrade(settings.sql_url)
        keys.ensure_admin_key(settings.admin_key_path)
    except ServiceUnavailable as error:
        where = shown_url(settings.sql_url)
        raise Misconfigured(
            f"{error.message} ({where})", hint="Start it, or correct DATABASE_URL."
        ) from error


def use(data_dir: Path) -> None:
    """Settle the data directory for this process and those that it starts."""
    os.environ["SFT_DATA_DIR"] = str(data_dir.absolute())
    get_settings.cache_clear()


def make_directory(path: Path) -> None:
    """Raises Misconfigured where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(
            f"The directory {path} cannot be made: {error.strerror}.", hint="Name another with --data-dir."
        ) from error


def reach_broker(url: str) -> None:
    """Raises Misconfigured where nothing answers."""
    try:
        with Connection(url, connect_timeout=BROKER_TIMEOUT_SECONDS) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=BROKER_TIMEOUT_SECONDS)
    except Exception as error:
        raise Misconfigured(
            f"The broker at {shown_url(url)} cannot be reached: {error}",
            hint="Start it, or correct REDIS_URL.",
        ) from error


def shown_url(url: str) -> str:
    """A URL without its passwords."""
    parsed = make_url(url)
    return parsed.set(query=dict.fromkeys(parsed.query, "***")).render_as_string(hide_password=True)
