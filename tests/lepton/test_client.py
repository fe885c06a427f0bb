"""The HTTP client: its token, and invalid answers."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from tests.support.lepton.client import job_body
from tests.support.lepton.server.server import LeptonServer
from tests.support.waiting import wait_until
from worker.backends.lepton.client import USUAL_PAUSE_SECONDS, Workspace
from worker.backends.lepton.client import workspace as connected
from worker.clusters.secrets import Secret
from worker.errors import BackendUnavailable, CredentialsRefused


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The file with the token."""
    return tmp_path / "token"


@pytest.fixture
def workspace(lepton: LeptonServer, token: Path) -> Workspace:
    token.write_text(lepton.token)
    return connected(lepton.url, Secret(file=token))


@pytest.mark.parametrize("space", [" ", "\n\n", " \n", "\r\n", "\t"])
def test_space_around_a_token_is_stripped(
    workspace: Workspace, lepton: LeptonServer, token: Path, space: str
) -> None:
    token.write_text(f"{space}{lepton.token}{space}")
    assert list(workspace.jobs()) == []


@pytest.mark.parametrize(
    "text", ["", " \n", "tok\nSECRET", "tok SECRET", "tök-SECRET", "tok-SECRET\x7f", "tok\x00"]
)
def test_an_invalid_token_is_reported_and_not_shown(
    workspace: Workspace, lepton: LeptonServer, token: Path, text: str
) -> None:
    token.write_text(text)
    with pytest.raises(CredentialsRefused) as caught:
        list(workspace.jobs())
    assert "token is empty, or has characters" in caught.value.message
    assert "SECRET" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert lepton.requests == []


# -- invalid answers -------------------------------------------------------------------------------


def unavailable(workspace: Workspace) -> BackendUnavailable:
    with pytest.raises(BackendUnavailable) as found:
        list(workspace.jobs())
    return found.value


def test_a_cut_body_is_no_answer(workspace: Workspace, lepton: LeptonServer) -> None:
    lepton.workspace.hold_queue = True
    lepton.workspace.create(job_body("r1"))
    lepton.faults.add("cut_within", path="/jobs", times=1)
    assert "cannot be reached" in unavailable(workspace).message
    assert [job.metadata.id for job in workspace.jobs()] == ["r1"]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"Retry-After": "Mon, 99 Foo 2026"}])
def test_without_a_valid_retry_after_calls_pause_for_the_default(
    workspace: Workspace, lepton: LeptonServer, status: int, headers: dict[str, str]
) -> None:
    lepton.faults.add("status", status=status, headers=headers)
    assert unavailable(workspace).retry_after == USUAL_PAUSE_SECONDS
    assert "pauses its calls" in unavailable(workspace).message
    assert len(lepton.requests) == 1


def test_retry_after_may_be_a_date(workspace: Workspace, lepton: LeptonServer) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=500), usegmt=True)
    lepton.faults.add("status", status=429, headers={"Retry-After": then})
    asked = unavailable(workspace).retry_after or 0.0
    assert USUAL_PAUSE_SECONDS < asked <= 500


def test_the_longer_of_two_pauses_counts(workspace: Workspace, lepton: LeptonServer) -> None:
    short = lepton.faults.add(
        "status", path="/jobs/r1", status=429, headers={"Retry-After": "1"}, seconds=1.0, times=1
    )
    lepton.faults.add("status", path="/jobs", status=429, headers={"Retry-After": "500"})
    with ThreadPoolExecutor() as threads:
        other = threads.submit(workspace.job, "r1")
        wait_until(lambda: short.times == 0, what="a call in flight")
        unavailable(workspace)
        assert isinstance(other.exception(), BackendUnavailable)
    assert (unavailable(workspace).retry_after or 0.0) > USUAL_PAUSE_SECONDS
