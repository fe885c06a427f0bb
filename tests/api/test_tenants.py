"""Projects share a cluster and its file systems, and do not get at each other's files."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support.concurrency import at_once
from tests.support.process import forget_settings
from worker.clusters.registry import clusters
from worker.db.models import Job
from worker.db.session import writing
from worker.errors import Misconfigured
from worker.jobs import queries, transitions
from worker.settings import PROJECT_ROOT
from worker.states import JobState

Body = dict[str, Any]
Saving = Callable[[Path | str], Body]


@pytest.fixture
def profiles(data_dir: Path, environment: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that writes cluster profiles."""

    def write(text: str) -> None:
        (data_dir / "clusters.toml").write_text(text)
        forget_settings()

    return write


@pytest.fixture
def saving(good: Body) -> Saving:
    """Return a function: the body of a job that saves into a directory."""
    return lambda path: {**good, "overrides": [*good["overrides"], f"checkpoint.save={path}"]}


@pytest.fixture
def portal(client: TestClient) -> TestClient:
    """Return a client with the key of a submitter of the project `other`."""
    made = client.post("/v1/keys", json={"name": "portal", "role": "submitter", "project": "other"}).json()
    return TestClient(client.app, headers={"Authorization": f"Bearer {made['key']}"})


def fail(job_id: str) -> None:
    job = queries.get(job_id)
    with writing() as session:
        assert transitions.move(session, job, JobState.FAILED)


# -- save directories ------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["", "/", "/../out", "/inside", "/iter_0000010/x"])
def test_a_save_directory_belongs_to_one_live_job(
    client: TestClient, saving: Saving, data_dir: Path, alias: str
) -> None:
    out = data_dir / "inputs" / "out"
    first = client.post("/v1/jobs", json=saving(out)).json()["id"]
    second = client.post("/v1/jobs", json=saving(f"{out}{alias}"))
    assert (second.status_code, second.json()["code"]) == (409, "save_directory_in_use")
    assert first in second.json()["detail"]
    fail(first)
    assert client.post("/v1/jobs", json=saving(f"{out}{alias}")).status_code == 201
    assert client.post(f"/v1/jobs/{first}/retry").json()["code"] == "save_directory_in_use"
    assert client.get(f"/v1/jobs/{first}").json()["state"] == "FAILED"


def test_a_link_is_no_other_directory(client: TestClient, saving: Saving, data_dir: Path) -> None:
    out = data_dir / "inputs" / "out"
    out.mkdir()
    (data_dir / "inputs" / "link").symlink_to(out)
    assert client.post("/v1/jobs", json=saving(out)).status_code == 201
    assert client.post("/v1/jobs", json=saving(data_dir / "inputs" / "link" / "a")).status_code == 409


def test_another_project_learns_no_id(
    client: TestClient, portal: TestClient, saving: Saving, data_dir: Path
) -> None:
    first = client.post("/v1/jobs", json=saving(data_dir / "inputs" / "out")).json()["id"]
    second = portal.post("/v1/jobs", json=saving(data_dir / "inputs" / "out"))
    assert second.status_code == 409
    assert first not in second.text


def test_of_concurrent_requests_one_gets_the_directory(
    client: TestClient, saving: Saving, data_dir: Path
) -> None:
    body = saving(data_dir / "inputs" / "out")
    answers = at_once(6, lambda: client.post("/v1/jobs", json=body))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 5]
    assert len(client.get("/v1/jobs").json()["items"]) == 1


def test_equal_requests_still_get_one_job(client: TestClient, saving: Saving, data_dir: Path) -> None:
    body = saving(data_dir / "inputs" / "out")
    headers = {"Idempotency-Key": "once"}
    answers = at_once(6, lambda: client.post("/v1/jobs", json=body, headers=headers))
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_a_plan_shows_the_submission_of_its_project(
    client: TestClient, portal: TestClient, good: Body, data_dir: Path
) -> None:
    planned = [one.post("/v1/jobs:plan", json=good).json() for one in (client, portal)]
    caches = [
        json.loads(plan["submission"]["files"]["run.json"])["isolation"]["hub_cache"] for plan in planned
    ]
    assert caches == [str(data_dir / "caches" / "local" / project) for project in ("default", "other")]


# -- GPUs ------------------------------------------------------------------------------------------


def test_more_gpus_than_the_project_may_have_are_rejected(
    client: TestClient, portal: TestClient, good: Body
) -> None:
    assert client.put("/v1/projects/other/limits", json={"gpus": 2}).status_code == 200
    wanted = {**good, "resources": {"gpus_per_node": 4}}
    planned = portal.post("/v1/jobs:plan", json=wanted).json()
    assert planned["ok"] is False
    found = {(one["pointer"], one["code"], one["severity"]) for one in planned["checks"]}
    assert ("/resources/gpus_per_node", "beyond_project_limit", "error") in found
    answer = portal.post("/v1/jobs", json=wanted)
    assert answer.status_code == 422
    assert ("/resources/gpus_per_node", "beyond_project_limit") in {
        (one["pointer"], one["code"]) for one in answer.json()["errors"]
    }
    assert client.post("/v1/jobs", json=wanted).status_code == 201  # another project


LOGIN = 'executor = "slurm"\nremote_job_dir = "/lustre/sft"\nhost = "{}"\n'


@pytest.mark.parametrize(
    ("one", "other", "status"),
    [
        ("", "", 409),
        (LOGIN.format("login-1"), LOGIN.format("login-1"), 409),
        (LOGIN.format("login-1"), LOGIN.format("login-2"), 201),
        (LOGIN.format("login-1") + 'file_system = "lustre"\n',
         LOGIN.format("login-2") + 'file_system = "lustre"\n', 409),
        (LOGIN.format("login-1") + 'file_system = "local"\n', "", 409),
    ],
)  # fmt: skip
@pytest.mark.parametrize("is_removed", [False, True])
def test_profiles_say_which_of_them_share_files(
    client: TestClient,
    saving: Saving,
    data_dir: Path,
    profiles: Callable[[str], None],
    one: str,
    other: str,
    status: int,
    is_removed: bool,
) -> None:
    roots = f'roots = ["{data_dir}/inputs"]\n'
    body = saving(data_dir / "inputs" / "out")
    profiles(f"[one]\n{roots}{one}[other]\n{roots}{other}")
    assert client.post("/v1/jobs", json={**body, "cluster": "one"}).status_code == 201
    if is_removed:  # its live job still saves there
        profiles(f"[other]\n{roots}{other}")
    assert client.post("/v1/jobs", json={**body, "cluster": "other"}).status_code == status


def test_a_profile_of_another_host_takes_no_directory(
    client: TestClient, saving: Saving, data_dir: Path, profiles: Callable[[str], None]
) -> None:
    roots, body = f'roots = ["{data_dir}/inputs"]\n', {**saving(data_dir / "inputs" / "out"), "cluster": "a"}
    profiles(f"[a]\n{roots}{LOGIN.format('login-1')}")
    assert client.post("/v1/jobs", json=body).status_code == 201
    profiles(f"[a]\n{roots}{LOGIN.format('login-2')}")
    assert client.post("/v1/jobs", json=body).status_code == 409  # later attempts of the first save there


def test_a_job_of_an_earlier_version_may_save_anywhere(
    client: TestClient, saving: Saving, data_dir: Path, profiles: Callable[[str], None]
) -> None:
    roots, body = f'roots = ["{data_dir}/inputs"]\n', saving(data_dir / "inputs" / "out")
    profiles(f"[local]\n{roots}[a]\n{roots}{LOGIN.format('login-1')}")
    job = client.post("/v1/jobs", json=body).json()["id"]
    with writing() as session:
        session.get_one(Job, job).file_system = None
    assert client.post("/v1/jobs", json={**body, "cluster": "a"}).status_code == 409


# -- roots and projects ----------------------------------------------------------------------------


def test_each_project_has_its_subtree(
    client: TestClient,
    portal: TestClient,
    saving: Saving,
    data_dir: Path,
    profiles: Callable[[str], None],
) -> None:
    inputs = data_dir / "inputs"
    profiles(f'[local]\nroots = ["{inputs}/packed", "{inputs}/teams/{{project}}"]\n')
    own, others = saving(inputs / "teams" / "other" / "out"), saving(inputs / "teams" / "default" / "out")
    where = f"/overrides/{len(own['overrides']) - 1}"
    for body, is_rejected in ((own, False), (others, True)):
        checks = portal.post("/v1/jobs:plan", json=body).json()["checks"]
        assert (
            where in {one["pointer"] for one in checks if one["code"] == "path_not_allowed"}
        ) is is_rejected
    assert portal.get("/v1/clusters").json()["items"][0]["roots"][1] == str(inputs / "teams" / "other")
    answer = portal.post("/v1/datasets:inspect", json={"path": str(inputs / "teams" / "default")})
    assert answer.json()["errors"][0]["code"] == "path_not_allowed"


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("root", ["{inputs}/teams/{{project}}", "{inputs}/teams/{{project}}/data"])
@pytest.mark.parametrize("target", ["default", ".", "{data}/jobs", "/"])
def test_a_link_in_place_of_a_project_leads_nowhere(
    portal: TestClient,
    saving: Saving,
    data_dir: Path,
    profiles: Callable[[str], None],
    root: str,
    target: str,
) -> None:
    """The service has started before there was a link."""
    inputs, teams = data_dir / "inputs", data_dir / "inputs" / "teams"
    profiles(f'[local]\nroots = ["{inputs}/packed", "{root.format(inputs=inputs)}"]\n')
    assert len(portal.get("/v1/clusters").json()["items"][0]["roots"]) == 2
    for name in (teams / "default" / "data", teams / "data", data_dir / "jobs" / "data"):
        name.mkdir(parents=True, exist_ok=True)
    (teams / "other").symlink_to(target.format(data=data_dir))
    body = saving(Path(root.format(inputs=inputs).replace("{project}", "other")) / "out")
    codes = {one["code"] for one in portal.post("/v1/jobs:plan", json=body).json()["checks"]}
    assert "path_not_allowed" in codes
    assert portal.get("/v1/clusters").json()["items"][0]["roots"] == [f"{inputs}/packed"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_root_in_another_root_is_no_link(
    client: TestClient, saving: Saving, data_dir: Path, profiles: Callable[[str], None]
) -> None:
    """Runs can write the outer root, and so replace the inner one."""
    inputs = data_dir / "inputs"
    profiles(f'[local]\nroots = ["{inputs}", "{inputs}/inner"]\n')
    (inputs / "inner").symlink_to("/etc")
    codes = {one["code"] for one in client.post("/v1/jobs:plan", json=saving("/etc/out")).json()["checks"]}
    assert "path_not_allowed" in codes


def test_a_profile_is_open_to_its_projects(
    client: TestClient, portal: TestClient, good: Body, data_dir: Path, profiles: Callable[[str], None]
) -> None:
    roots = f'roots = ["{data_dir}/inputs"]\n'
    profiles(f'[local]\n{roots}[closed]\n{roots}projects = ["default"]\n')
    wanted = {**good, "cluster": "closed"}
    assert client.post("/v1/jobs", json=wanted).status_code == 201
    assert [one["name"] for one in portal.get("/v1/clusters").json()["items"]] == ["local"]
    for url, body in {
        "/v1/jobs": wanted, "/v1/jobs:plan": wanted,
        "/v1/datasets:inspect": {"path": "/data", "cluster": "closed"},
    }.items():  # fmt: skip
        answer = portal.post(url, json=body)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_cluster")


@pytest.mark.parametrize(("state", "action"), [(JobState.FAILED, "retry"), (JobState.PAUSED, "resume")])
def test_a_profile_that_was_closed_takes_no_more_attempts(
    client: TestClient,
    portal: TestClient,
    good: Body,
    data_dir: Path,
    profiles: Callable[[str], None],
    state: JobState,
    action: str,
) -> None:
    roots = f'roots = ["{data_dir}/inputs"]\n'
    profiles(f"[local]\n{roots}")
    job = portal.post("/v1/jobs", json=good).json()["id"]
    with writing() as session:
        session.get_one(Job, job).state = state
    profiles(f'[local]\n{roots}projects = ["default"]\n')
    answer = portal.post(f"/v1/jobs/{job}/{action}")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert client.post(f"/v1/jobs/{job}/{action}").status_code == 202  # an admin


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "root",
    ["/", "{data}", "{data}/..", "{data}/jobs", "{data}/jobs/x", "{data}/local", "{data}/lepton/a",
     "{data}/removals", "{data}/sft.db", "{data}/admin.key", "{data}/broker", "{data}/inputs/../jobs",
     "{data}/{{project}}", "{above}/{{project}}", "{data}/inputs/link", "{data}/clusters.toml",
     str(PROJECT_ROOT), str(PROJECT_ROOT / "worker" / "jobs"), sys.prefix],
)  # fmt: skip
def test_a_root_gives_no_access_to_the_service(
    database: str, data_dir: Path, profiles: Callable[[str], None], root: str
) -> None:
    (data_dir / "inputs").mkdir()
    (data_dir / "inputs" / "link").symlink_to(data_dir)
    shown = root.format(data=data_dir, above=data_dir.parent)
    profiles(f'[local]\nroots = ["{shown}"]\n')
    with pytest.raises(Misconfigured, match="of the service itself"):
        clusters()


SLURM = '[far]\nexecutor = "slurm"\nremote_job_dir = "/lustre/sft"\n'
OVER_SSH = 'tunnel = "ssh"\nhost = "login"\n'
LEPTON = """[far]
executor = "lepton"
url = "https://lepton.test"
remote_job_dir = "/ws/sft"
mounts = [{ path = "/", from = "nfs:a", mount_path = "/ws" }]
local_mount = "/mnt/ws"
container_image = "image"
resource_shape = "shape"
"""


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("profile", "rejected", "allowed"),
    [
        (SLURM + 'roots = ["{root}"]', ["/lustre", "/lustre/sft", "/lustre/sft/jobs", "/lustre/{project}",
                                        "/lustre/x/../sft", "/"], "/lustre/sft-data"),
        (SLURM + OVER_SSH + 'roots = ["{root}"]', ["/lustre", "/lustre/{project}/jobs"], "/lustre/data"),
        (SLURM + '[local]\nroots = ["{root}"]', ["/lustre", "/lustre/sft/code"], "/lustre/data"),
        (SLURM + OVER_SSH + '[local]\nroots = ["{root}"]', [], "/lustre"),
        (LEPTON + 'roots = ["{root}"]', ["/ws", "/ws/sft/jobs"], "/ws/data"),
        (LEPTON + '[local]\nroots = ["{root}"]', ["/mnt/ws", "/mnt/ws/sft"], "/ws"),
    ],
)  # fmt: skip
def test_a_root_gives_no_access_to_the_jobs_of_a_cluster(
    database: str, profiles: Callable[[str], None], profile: str, rejected: list[str], allowed: str
) -> None:
    profiles(profile.replace("{root}", allowed))
    assert "far" in clusters()
    for root in rejected:
        profiles(profile.replace("{root}", root))
        with pytest.raises(Misconfigured, match="remote_job_dir of"):
            clusters()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("profile", ["[near]\n", SLURM])
def test_files_that_the_service_sees_are_local(
    database: str, profiles: Callable[[str], None], profile: str
) -> None:
    """Else profiles that share files would not know of each other's jobs."""
    profiles(f'{profile}file_system = "lustre"\n')
    with pytest.raises(Misconfigured, match="file_system: the service sees these files"):
        clusters()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("root", ["data/x", "/lustre/{projekt}", "/lustre/{", "~/x"])
def test_a_root_is_an_absolute_path(database: str, profiles: Callable[[str], None], root: str) -> None:
    profiles(f'[local]\nroots = ["{root}"]\n')
    with pytest.raises(Misconfigured, match="placeholder"):
        clusters()
