"""A Lepton server for each test, and a service with its own server for each module."""

from collections.abc import Iterator

import pytest

from tests.support.lepton.client import Client
from tests.support.lepton.sdk import Sdk
from tests.support.lepton.server.server import LeptonServer
from tests.support.lepton.service import LeptonService, new_server, start_service


@pytest.fixture
def lepton() -> Iterator[LeptonServer]:
    """A server for one test."""
    with new_server() as server:
        yield server


@pytest.fixture
def client(lepton: LeptonServer) -> Iterator[Client]:
    """An HTTP client of the server."""
    with Client(lepton) as found:
        yield found


@pytest.fixture(scope="module")
def on_lepton(tmp_path_factory: pytest.TempPathFactory, stand_in: object) -> Iterator[LeptonService]:
    """A service for the tests of a module, with runs that take milliseconds."""
    with (
        new_server() as server,
        start_service(server, tmp_path_factory.mktemp("on_lepton"), stand_in) as running,
    ):
        yield running


@pytest.fixture
def service(on_lepton: LeptonService) -> Iterator[LeptonService]:
    """The module's service, with no faults at the start of a test."""
    lepton = on_lepton.lepton
    lepton.faults.lift()
    lepton.faults.suffix_names = lepton.faults.repeat_lines = lepton.faults.bare_lists = False
    lepton.faults.late_seconds.clear()
    lepton.faults.clock_tick_ns = 1
    lepton.workspace.hold_queue = False
    return on_lepton


@pytest.fixture(scope="session")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """NVIDIA's own client: `sdk(server, "job.get", id_or_job="r1")`."""
    with Sdk(tmp_path_factory.mktemp("sdk")) as running:
        yield running
