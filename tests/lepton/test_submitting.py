"""A job is created once, whatever becomes of the answers."""

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
def test_what_the_list_shows_late_is_not_created_again(on: Bare, suffixes: bool) -> None:
    on.lepton.faults.suffix_names = suffixes
    lose_an_answer(on)
    on.on_lepton().unlisted = 2
    on.pass_time(UNSEEN_SECONDS + 1)  # as long as the call took
    for _ in range(2):
        with pytest.raises(BackendUnavailable, match="not known whether"):
            on.backend.submit(on.submission())
    assert on.backend.submit(on.submission()) == on.on_lepton().id
    assert len(on.lepton.workspace.created) == 1


def test_what_was_never_created_is_when_the_list_has_not_shown_it_for_long_enough(on: Bare) -> None:
    on.lepton.faults.add("cut", method="POST", path="/jobs", times=1)
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            on.backend.submit(on.submission())
    on.pass_time(UNSEEN_SECONDS + 1)
    assert on.backend.submit(on.submission()) == "job-1-1"


@pytest.mark.parametrize("status", [400, 403, 404, 409, 422])
def test_a_refusal_may_be_that_of_a_double(on: Bare, status: int) -> None:
    lose_an_answer(on)
    on.on_lepton().unlisted = 2
    with pytest.raises(BackendUnavailable):
        on.backend.submit(on.submission())
    on.pass_time(UNSEEN_SECONDS + 1)
    on.lepton.faults.add("status", method="POST", path="/jobs", status=status)
    assert on.backend.submit(on.submission()) == on.on_lepton().id


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_what_is_refused_is_refused_and_no_longer_waited_for(on: Bare, status: int) -> None:
    on.lepton.faults.add("status", method="POST", path="/jobs", status=status, body=b"you may not")
    for _ in range(2):
        with pytest.raises(SubmissionRejected, match=f"HTTP {status}: you may not"):
            on.backend.submit(on.submission())


@pytest.mark.parametrize("status", [408, 425])
def test_a_call_that_took_lepton_too_long_may_have_created_the_job(on: Bare, status: int) -> None:
    on.lepton.faults.add("status", method="POST", path="/jobs", times=1, status=status)
    with pytest.raises(BackendUnavailable):
        on.backend.submit(on.submission())
    with pytest.raises(BackendUnavailable, match="not known whether"):
        on.backend.submit(on.submission())


def test_a_token_that_may_do_nothing_is_no_refusal_of_the_job(on: Bare) -> None:
    on.lepton.faults.add("status", status=403)
    with pytest.raises(CredentialsRefused):
        on.backend.submit(on.submission())
