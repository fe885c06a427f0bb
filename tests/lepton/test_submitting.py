"""A job is created once, even if answers are lost."""

from pathlib import Path

import pytest

from tests.support.lepton.bare import Bare, bare
from tests.support.lepton.server.server import LeptonServer
from worker.errors import BackendUnavailable, CredentialsRefused, SubmissionRejected

UNSEEN_SECONDS = 30


@pytest.fixture
def on(lepton: LeptonServer, tmp_path: Path) -> Bare:
    return bare(lepton, tmp_path, unseen_seconds=UNSEEN_SECONDS)


def lose_an_answer(on: Bare) -> None:
    on.lepton.faults.add("cut_after", method="POST", path="/jobs", times=1)
    with pytest.raises(BackendUnavailable):
        on.backend.submit(on.submission())


@pytest.mark.parametrize("suffixes", [False, True], ids=["plain", "suffixed"])
def test_a_job_that_is_listed_late_is_not_created_again(on: Bare, suffixes: bool) -> None:
    on.lepton.faults.suffix_names = suffixes
    lose_an_answer(on)
    on.on_lepton().unlisted = 2
    on.pass_time(UNSEEN_SECONDS + 1)  # duration of the call
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="not known whether"):
            on.backend.submit(on.submission())
    assert on.backend.submit(on.submission()) == on.on_lepton().id
    assert len(on.lepton.workspace.created) == 1


def test_a_job_that_stays_unlisted_is_created_again(on: Bare) -> None:
    on.lepton.faults.add("cut", method="POST", path="/jobs", times=1)
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            on.backend.submit(on.submission())
    on.pass_time(UNSEEN_SECONDS + 1)
    assert on.backend.submit(on.submission()) == "job-1-1"


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
def test_a_rejection_may_be_that_of_a_duplicate(on: Bare, status: int) -> None:
    lose_an_answer(on)
    on.on_lepton().unlisted = 2
    with pytest.raises(BackendUnavailable):
        on.backend.submit(on.submission())
    on.pass_time(UNSEEN_SECONDS + 1)
    on.lepton.faults.add("status", method="POST", path="/jobs", status=status)
    assert on.backend.submit(on.submission()) == on.on_lepton().id


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_a_rejection_is_final(on: Bare, status: int) -> None:
    on.lepton.faults.add("status", method="POST", path="/jobs", status=status, body=b"you may not")
    for _ in range(2):
        with pytest.raises(SubmissionRejected, match=f"HTTP {status}: you may not"):
            on.backend.submit(on.submission())


@pytest.mark.parametrize("status", [408, 425])
def test_a_timed_out_call_may_have_created_the_job(on: Bare, status: int) -> None:
    on.lepton.faults.add("status", method="POST", path="/jobs", times=1, status=status)
    with pytest.raises(BackendUnavailable):
        on.backend.submit(on.submission())
    with pytest.raises(BackendUnavailable, match="not known whether"):
        on.backend.submit(on.submission())


def test_a_rejected_token_is_no_rejection_of_the_job(on: Bare) -> None:
    on.lepton.faults.add("status", status=403)
    with pytest.raises(CredentialsRefused):
        on.backend.submit(on.submission())
