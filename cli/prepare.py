"""Prepare the start of the service: directory, profiles, database, key, broker."""

import os
from pathlib import Path

from kombu.connection import Connection
from sqlalchemy.engine import make_url

from cli import data_directory
from worker.auth import keys
from worker.backends.local import status
from worker.clusters.registry import clusters
from worker.db import migrate
from worker.errors import Misconfigured, ServiceUnavailable, StorageFull
from worker.settings import SERVICE_UMASK, get_settings
from worker.telemetry import tracing

BROKER_TIMEOUT_SECONDS = 5


def initialize(data_dir: Path) -> None:
    """Create the data directory, read the profiles, upgrade the database, write the admin key.

    Raises Misconfigured.
    """
    use(data_dir)
    settings = get_settings()
    make_directory(settings.data_dir / "inputs")
    tracing.check()
    clusters()  # report an invalid profile now, not at each request
    status.check_accounts()
    try:
        migrate.upgrade(settings.sql_url)
        keys.ensure_admin_key(settings.admin_key_path)
    except ServiceUnavailable as error:
        where = shown_url(settings.sql_url)
        is_full = isinstance(error, StorageFull)
        hint = "Free some space." if is_full else "Start it, or correct DATABASE_URL."
        raise Misconfigured(f"{error.message} ({where})", hint=hint) from error


def use(data_dir: Path) -> None:
    """Set the data directory for this process and its children, and close it to other accounts.

    Raises Misconfigured if it belongs to another account.
    """
    os.umask(SERVICE_UMASK)
    data_directory.close(data_dir)
    os.environ["SFT_DATA_DIR"] = str(data_dir.absolute())
    get_settings.cache_clear()


def make_directory(path: Path) -> None:
    """Create a directory. Raises Misconfigured if that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(
            f"The directory {path} cannot be created: {error.strerror}.",
            hint="Name another directory with --data-dir.",
        ) from error


def reach_broker(url: str) -> None:
    """Connect to the broker once. Raises Misconfigured if it does not respond."""
    try:
        with Connection(url, connect_timeout=BROKER_TIMEOUT_SECONDS) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=BROKER_TIMEOUT_SECONDS)
    except Exception as error:
        raise Misconfigured(
            f"The broker at {shown_url(url)} cannot be reached: {error}",
            hint="Start it, or correct REDIS_URL.",
        ) from error


def shown_url(url: str) -> str:
    """Return a URL without its passwords."""
    parsed = make_url(url)
    return parsed.set(query=dict.fromkeys(parsed.query, "***")).render_as_string(hide_password=True)
