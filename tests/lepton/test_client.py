"""The client by itself: its token, and what it makes of answers that are none."""

from pathlib import Path

import pytest

from tests.lepton.server.server import LeptonServer
from worker.backends.lepton.client import Workspace
from worker.backends.lepton.client import workspace as connected
from worker.errors import CredentialsRefused
from worker.secrets import Secret


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The file that holds it."""
    return tmp_path / "token"


@pytest.fixture
def workspace(lepton: LeptonServer, token: Path) -> Workspace:
    token.write_text(lepton.token)
    return connected(lepton.url, Secret(file=token))


@pytest.mark.parametrize("space", [" ", "\n\n", " \n", "\r\n", "\t"])
def test_space_around_a_token_is_no_part_of_it(
    workspace: Workspace, lepton: LeptonServer, token: Path, space: str
) -> None:
    token.write_text(f"{space}{lepton.token}{space}")
    assert list(workspace.jobs()) == []


@pytest.mark.parametrize(
    "text", ["", " \n", "tok\nSECRET", "tok SECRET", "tök-SECRET", "tok-SECRET\x7f", "tok\x00"]
)
def test_what_can_be_no_token_is_told_and_not_shown(
    workspace: Workspace, lepton: LeptonServer, token: Path, text: str
) -> None:
    token.write_text(text)
    with pytest.raises(CredentialsRefused) as refused:
        list(workspace.jobs())
    assert "token is empty, or has characters" in refused.value.message
    assert "SECRET" not in f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"
    assert lepton.requests == []
