"""The application in this process, on each kind of database and its own broker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.inputs import make_inputs


@pytest.fixture
def client(database: str, environment: pytest.MonkeyPatch, data_dir: Path) -> Iterator[TestClient]:
    """Yield a client with an admin's key; no worker executes the enqueued tasks."""
    from api.app import create_app
    from worker.auth import keys
    from worker.auth.roles import Role

    _key, secret = keys.create("admin", Role.ADMIN, "default")
    (data_dir / "inputs").mkdir()
    with TestClient(create_app(), headers={"Authorization": f"Bearer {secret}"}) as client:
        yield client


@pytest.fixture
def good(data_dir: Path) -> dict[str, Any]:
    """Return the body of a valid job."""
    return make_inputs(data_dir)
