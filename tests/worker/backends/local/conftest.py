from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_runs import Make
from tests.support.service import kill_runs
from worker.backends.local.backend import LocalBackend


@pytest.fixture
def backend(data_dir: Path, stand_in: Path) -> Iterator[Make]:
    def make(max_running: int = 1, python: Path = stand_in) -> LocalBackend:
        return LocalBackend(
            root=data_dir, python=python, max_running=max_running, env_vars={"TEAM": "a b"}, cluster="local",
            roots=(data_dir / "saved",),
        )  # fmt: skip

    yield make
    kill_runs(data_dir)
