"""Installing Slurm: missing parts are reported, and existing files are restored."""

from contextlib import suppress
from pathlib import Path

import pytest

from demo.slurm import install

pytestmark = pytest.mark.slurm


def test_services_do_not_start_and_the_policy_is_restored(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    with suppress(KeyboardInterrupt), install.no_service_starts(policy):
        assert "exit 101" in policy.read_text()
        assert policy.stat().st_mode & 0o111
        raise KeyboardInterrupt
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert list(tmp_path.iterdir()) == [policy]


def test_no_policy_is_left_where_there_was_none(tmp_path: Path) -> None:
    with install.no_service_starts(tmp_path / "policy-rc.d"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_missing_programs_are_reported_if_they_cannot_be_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(install, "PATH", str(tmp_path))
    with pytest.raises(install.NotInstalled, match=r"slurmctld, .*slurm-wlm.*no apt-get"):
        install.install()
    assert "make setup-slurm" in (install.missing_requirement() or "")
