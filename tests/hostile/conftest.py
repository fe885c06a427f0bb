"""The service under attack, and the table of what the attacks have achieved."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from tests.hostile.target import Count, Target
from tests.support.service import Service

COUNTS = pytest.StashKey[list[Count]]()
SETTINGS = {"SFT_CLIENT_TIMEOUT_SECONDS": "2", "SFT_POLL_INTERVAL_SECONDS": "0.2"}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Iterator[Target]:
    """Yield a service to attack, with runs that take milliseconds."""
    directory = tmp_path_factory.mktemp("target")
    with Service(directory / "data", SFT_TRAINER_PYTHON=str(stand_in), **SETTINGS) as service:
        yield Target(service, directory)


@pytest.fixture
def counts(pytestconfig: pytest.Config) -> list[Count]:
    """Return the list of counts that the summary shows."""
    return pytestconfig.stash.setdefault(COUNTS, [])


def pytest_terminal_summary(config: pytest.Config) -> None:
    if counts := config.stash.get(COUNTS, []):
        table = Table("attacks", "sent", "escapes", "5xx", "over 2 s of CPU")
        for one in counts:
            table.add_row(one.campaign, *map(str, (one.sent, one.escapes, one.errors, one.slow)))
        Console().print(table)
