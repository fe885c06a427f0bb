"""The data directory is closed to other accounts, whatever umask the service is started with."""

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.test_serve import sft
from tests.support.inputs import make_inputs
from tests.support.modes import mode, open_to_others, umask
from tests.support.service import Service

pytestmark = pytest.mark.slow

PROFILES = """
[local]
roots = ["{data_dir}/inputs"]
[shared]
roots = ["{data_dir}/inputs"]
file_mode = "0660"
"""


@pytest.fixture(params=[0o000, 0o022])
def service(request: pytest.FixtureRequest, data_dir: Path, stand_in: Path) -> Iterator[Service]:
    """A service that was started with a umask, on a directory that is as open as the umask lets it be."""
    (data_dir / "clusters.toml").write_text(PROFILES.format(data_dir=data_dir))
    data_dir.chmod(0o777 & ~request.param)
    with umask(request.param):
        running = Service(data_dir, SFT_TRAINER_PYTHON=str(stand_in), SFT_POLL_INTERVAL_SECONDS="0.2")
    with running:
        yield running


def test_the_service_keeps_its_files_to_itself_and_runs_follow_the_profile(service: Service) -> None:
    saves = service.data_dir / "inputs/saves"
    body = make_inputs(service.data_dir)
    saves.mkdir()
    os.chown(saves, -1, os.getgroups()[-1] if os.geteuid() else 65534)
    saves.chmod(0o2770)
    jobs = {
        "default": body,
        "named": {**body, "overrides": [*body["overrides"], f"checkpoint.save={saves}/one"]},
        "shared": {
            **body, "cluster": "shared", "overrides": [*body["overrides"], f"checkpoint.save={saves}/two"],
        },
    }  # fmt: skip
    ended = {name: service.wait_for(service.submit(job)["id"]) for name, job in jobs.items()}
    assert {job["state"] for job in ended.values()} == {"SUCCEEDED"}
    with closing(sqlite3.connect(service.data_dir / "sft.db")):  # keeps -wal and -shm
        assert open_to_others(service.data_dir) == {}
        assert {"sft.db-wal", "sft.db-shm", "admin.key", "local", "broker"} <= {
            path.name for path in service.data_dir.iterdir()
        }
    for name, directories, files in (
        ("default", 0o750, 0o640), ("named", 0o2750, 0o640), ("shared", 0o2770, 0o660),
    ):  # fmt: skip
        saved = Path(ended[name]["latest_checkpoint"]["path"])
        assert {oct(mode(path)) for path in (saved, saved.parent)} == {oct(directories)}
        assert {oct(mode(path)) for path in saved.iterdir()} == {oct(files)}
        if name != "default":
            assert saved.stat().st_gid == saves.stat().st_gid


@pytest.mark.parametrize("command", ["init", "gc"])
def test_an_open_directory_is_closed_and_the_change_is_printed(data_dir: Path, command: str) -> None:
    with umask(0):
        assert sft("init", "--data-dir", str(data_dir)).returncode == 0
        for name in ("jobs/job-1", "local/local.spool", "lepton/x/jobs", "removals", "inputs/model"):
            (data_dir / name).mkdir(parents=True, exist_ok=True)
        (data_dir / "local/local.spool/job-1.1").touch()
        (data_dir / "inputs/model/config.json").touch()
    for path in (data_dir, *data_dir.rglob("*")):
        path.chmod(0o777)
    done = sft(command, "--data-dir", str(data_dir))
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "Other accounts had access" in line]
    assert f"{data_dir} (0777)" in line
    assert {path for path in open_to_others(data_dir) if "lepton/x/" not in path} == set()
    assert mode(data_dir / "inputs/model/config.json") == 0o777  # not the service's
    assert "Other accounts" not in sft(command, "--data-dir", str(data_dir)).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("serve", "."),
        ("init", "."),
        ("gc", "removals/job-1.job.json"),
        ("serve", "local/local.spool/job-1.1"),
        ("init", "sft.db"),
    ],
)
def test_what_belongs_to_another_account_is_rejected(data_dir: Path, command: str, name: str) -> None:
    path = data_dir / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name != ".":
        path.write_text("")
    os.chown(path, 65534, 65534)
    before = sorted(data_dir.rglob("*"))
    done = sft(command, "--data-dir", str(data_dir))
    assert done.returncode == 1
    assert "(uid 65534)" in done.stderr
    assert "chown" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(data_dir.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may act as another account")
def test_another_account_cannot_have_a_command_run_by_the_service(service: Service) -> None:
    """The attack: a spool entry and the directory of a run, made by `nobody`."""
    as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for place in ("local/local.spool/job-1.1", "jobs/job-1", "sft.db", "admin.key", "inputs/x"):
        command = [*as_nobody, "touch", str(service.data_dir / place)]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Permission denied" in done.stderr
