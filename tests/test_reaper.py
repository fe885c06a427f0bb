"""A test session that is killed leaves no process and no directory behind."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from demo.slurm.install import missing_requirement
from tests.support import reaper
from tests.support.waiting import wait_until
from worker.settings import PROJECT_ROOT

OF_THE_SERVICE = {"postgres", "valkey-server"}
OF_THE_CLUSTER = {"munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "slurmstepd", "sshd", "sleep"}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """pytest with two workers on tests/support/abandoned.py."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = ["pytest", "-n", "2", "-p", "no:cacheprovider", "--basetemp", tempfile.mkdtemp()]
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "tests/support/abandoned.py"], cwd=PROJECT_ROOT,
            env={**inherited, "ABANDONED": str(tmp_path)}, stdout=output, stderr=output,
        )  # fmt: skip
    with process:
        yield process
        process.kill()


@pytest.mark.slow
def test_a_killed_session_leaves_nothing(session: subprocess.Popen[bytes], tmp_path: Path) -> None:
    has_slurm = missing_requirement() is None
    names = ["service", *(["cluster"] if has_slurm else [])]
    wait_until(lambda: all((tmp_path / name).exists() for name in names) or session.poll() is not None, 120)
    assert session.poll() is None, (tmp_path / "output").read_text()
    worker, directory = (tmp_path / "service").read_text().split()
    outer = Path(directory).parent
    running = reaper.members(outer)
    expected = OF_THE_SERVICE | (OF_THE_CLUSTER if has_slurm else set())
    assert named(running) >= expected

    os.kill(int(worker), signal.SIGKILL)
    wait_until(lambda: not Path(directory).exists(), what="the end of the worker's session")
    assert not named(reaper.members(outer)) & OF_THE_SERVICE
    session.kill()
    wait_until(lambda: not reaper.members(outer), what="the end of all")
    assert not any(map(reaper.lives, running))
    wait_until(lambda: not outer.exists(), what="the session's directory to be removed")


def named(processes: set[psutil.Process]) -> set[str]:
    """The names of living processes; a title that a daemon has set counts up to its first colon."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.add(process.name().partition(":")[0])
    return found
