"""Local runs see only what they need: hostile runs of the real service."""

import json
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.inputs import make_inputs
from tests.support.service import Service
from tests.support.sft import Sft
from worker.settings import PROJECT_ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has other accounts, and its files to hide"),
]

Start = Callable[..., Service]
NOT_ISOLATED = "local runs are not isolated"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home directory with a secret."""
    path = tmp_path / "home"
    path.mkdir()
    (path / "token").write_text("secret")
    return path


@pytest.fixture
def start(data_dir: Path, home: Path, stand_in: Path) -> Iterator[Start]:
    """Start a service whose runs are hostile."""
    (data_dir / "clusters.toml").write_text(f'[local]\nroots = ["{data_dir}/inputs"]\n')
    settings = {"HOME": str(home), "CANARY": str(home), "SFT_POLL_INTERVAL_SECONDS": "0.2"}
    with ExitStack() as running:

        def start(what: str = "read", **more: str) -> Service:
            python = _hostile(stand_in, home, what)
            service = Service(data_dir, SFT_TRAINER_PYTHON=str(python), **settings, **more)
            return running.enter_context(service)

        yield start


def _hostile(stand_in: Path, home: Path, what: str) -> Path:
    """Return an interpreter of tests/support/stand_in/hostile.py."""
    python = stand_in.with_name(f"hostile-{what}")
    python.write_text(f"""#!/bin/sh
export PYTHONPATH="{stand_in.parent}" CODE="{PROJECT_ROOT / "trainer"}"
exec "{sys.executable}" -m tests.support.stand_in.hostile "{home}" {what} "$@"
""")
    python.chmod(0o755)
    return python


def _report(service: Service) -> dict[str, Any]:
    """Return what a hostile run of the service could do; the run itself succeeds."""
    other = service.data_dir / "jobs" / "job-other" / "attempts" / "1"
    other.mkdir(parents=True, exist_ok=True)
    job = service.wait_for(service.submit(make_inputs(service.data_dir))["id"])
    assert job["state"] == "SUCCEEDED", job
    path = service.data_dir / "jobs" / job["id"] / "attempts" / "1" / "escapes.json"
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def _names(found: dict[str, bool], *, possible: bool) -> list[str]:
    return [name for name, was_possible in found.items() if was_possible is possible]


def test_a_run_reaches_nothing_but_its_own(start: Start) -> None:
    service = start("change")
    report = _report(service)
    assert _names(report["needs"], possible=False) == []
    assert _names(report["escapes"], possible=True) == []
    assert service.client.get("/readyz").json()["warnings"] == []
    assert NOT_ISOLATED not in service.output


def test_a_run_can_have_an_account_of_its_own(start: Start, data_dir: Path, stand_in: Path) -> None:
    with (data_dir / "clusters.toml").open("a") as profiles:
        profiles.write('run_as = "nobody"\n')
    nobody = pwd.getpwnam("nobody")
    (data_dir / "inputs").mkdir()
    os.chown(data_dir / "inputs", nobody.pw_uid, nobody.pw_gid)
    stand_in.parent.chmod(0o755)
    report = _report(start("change"))
    assert (report["uid"], report["groups"]) == (nobody.pw_uid, [nobody.pw_gid])
    assert int(report["capabilities"], 16) == 0
    assert _names(report["needs"], possible=False) == []
    assert _names(report["escapes"], possible=True) == []


@pytest.mark.parametrize(
    ("account", "why"),
    [("no-such-account", "no such account"), ("root", "it is root"), ("nobody", "cannot execute")],
)
def test_an_account_that_cannot_start_runs_is_reported_at_the_start(
    data_dir: Path, home: Path, account: str, why: str
) -> None:
    """Without isolation, the account itself has to reach the interpreter."""
    (home / "python").touch(0o755)
    home.chmod(0o700)
    (data_dir / "clusters.toml").write_text(f'[local]\nrun_as = "{account}"\npython = "{home}/python"\n')
    sft = Sft("http://unused", variables={"SFT_LOCAL_ISOLATION": "off"})
    done = sft("init", "--data-dir", str(data_dir))
    assert done.returncode == 1
    assert why in done.stderr + done.stdout


def test_without_isolation_the_service_says_so(start: Start) -> None:
    """The same attempts succeed: the test above would notice a missing isolation."""
    service = start(SFT_LOCAL_ISOLATION="off")
    report = _report(service)
    reached = _names(report["escapes"], possible=True)
    assert {"reads the admin key", "reads the service's environment", "lists other jobs"} <= set(reached)
    [warning] = service.client.get("/readyz").json()["warnings"]
    assert warning.startswith(NOT_ISOLATED)
    assert warning in service.output


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """Return a PATH whose bwrap fails like one in a container without namespaces."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "bwrap").write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed' >&2\nexit 1\n")
    (directory / "bwrap").chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def test_a_machine_that_cannot_isolate_runs_jobs_and_warns(start: Start, broken: str) -> None:
    service = start(PATH=broken)
    assert _report(service)["escapes"]["reads the admin key"]
    answer = service.client.get("/readyz")
    assert answer.status_code == 200
    assert "Creating new namespace failed" in answer.json()["warnings"][0]
    assert NOT_ISOLATED in service.output


def test_required_isolation_rejects_jobs_that_it_cannot_isolate(start: Start, broken: str) -> None:
    service = start(PATH=broken, SFT_LOCAL_ISOLATION="required")
    body = make_inputs(service.data_dir)
    assert "are rejected" in service.client.get("/readyz").json()["warnings"][0]
    plan = service.client.post("/v1/jobs:plan", json=body).json()
    assert (plan["ok"], _codes(plan["checks"], "code")) == (False, ["not_isolated"])
    answer = service.client.post("/v1/jobs", json=body)
    assert (answer.status_code, _codes(answer.json()["errors"], "pointer")) == (422, ["/cluster"])


def _codes(found: list[dict[str, Any]], field: str) -> list[str]:
    return [one[field] for one in found if one.get("severity", "error") == "error"]
