"""A cluster over SSH whose files the service does not see: plans, checks, inspections. No Slurm runs."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import packed_data
from tests.support.callers import ANNA
from tests.support.inputs import make_inputs
from tests.support.remote_cluster import write_profiles
from tests.support.sshd import Sshd
from worker.backends.access import ssh
from worker.backends.connect import connect
from worker.backends.slurm.backend import SlurmBackend
from worker.clusters.registry import cluster
from worker.db.models import Job
from worker.errors import BackendUnavailable, InvalidSpec
from worker.jobs import create, queries
from worker.lifecycle import submit
from worker.planning import dataset_inspection
from worker.planning.dataset_inspection import DatasetRequest
from worker.planning.plan import plan
from worker.planning.spec import JobSpec
from worker.states import JobState

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

Body = dict[str, Any]
Profile = Callable[..., None]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    running = Sshd(tmp_path_factory.mktemp("sshd"))
    running.start()
    yield running
    ssh.disconnect()
    running.stop()


@pytest.fixture
def profile(database: str, data_dir: Path, server: Sshd) -> Profile:
    """Return a function that changes the profile of cluster `far`."""

    def write(**changed: Any) -> None:
        write_profiles(data_dir, server, **changed)

    write()
    return write


@pytest.fixture
def body(profile: Profile, data_dir: Path) -> Body:
    return {**make_inputs(data_dir), "cluster": "far"}


@pytest.fixture
def data(body: Body) -> Path:
    return Path(body["inputs"]["packed_parquet"])


@pytest.fixture
def job(body: Body, environment: pytest.MonkeyPatch) -> Iterator[Job]:
    """A new job that must not be submitted."""
    submitted: list[str] = []
    environment.setattr(SlurmBackend, "submit", lambda _, submission: submitted.append(submission.name))
    yield queries.get(create.create(JobSpec(**body), ANNA).job_id)
    assert submitted == []


# -- plans -----------------------------------------------------------------------------------------


def findings(body: Body) -> list[tuple[str, str, str]]:
    return [(one.severity, one.code, one.pointer) for one in plan(JobSpec(**body), ANNA.tenant).checks]


UNVERIFIED = [
    ("unverified", "unseen_data", "/inputs/packed_parquet"),
    ("unverified", "unseen_model", "/overrides/0"),
]


def test_a_plan_does_not_inspect_local_files_of_the_same_path(body: Body, data: Path, data_dir: Path) -> None:
    # Sizes that would not fit, and the overrides that the memory estimate would need.
    (data_dir / "inputs/model/config.json").write_text('{"num_attention_heads": 3, "vocab_size": 100}')
    body["resources"] = {"gpus_per_node": 2}
    shape = ["recipe.tensor_model_parallel_size=2", "model.num_layers=2", "model.hidden_size=64"]
    body["overrides"] = [*body["overrides"], *shape]
    here = plan(JobSpec(**body), ANNA.tenant)
    assert (here.ok, here.memory, here.recipe) == (True, None, None)
    assert findings(body) == UNVERIFIED
    assert all("cluster" in one.message and one.hint for one in here.checks)
    shutil.rmtree(data_dir / "inputs")
    assert plan(JobSpec(**body), ANNA.tenant) == here


def test_checks_without_files_still_run(body: Body, data_dir: Path) -> None:
    checkpoint = str(data_dir / "inputs/base")
    body = {
        **body,
        "overrides": [*body["overrides"], "train.micro_batch_size=2", f"checkpoint.load={checkpoint}"],
        "inputs": {**body["inputs"], "checkpoint_megatron": checkpoint},
    }
    assert findings(body) == [
        *UNVERIFIED,
        ("unverified", "unseen_checkpoint", "/inputs/checkpoint_megatron"),
        ("unverified", "unseen_checkpoint", "/overrides/2"),
        ("error", "bad_parallel_batch_shape", "/overrides/1"),
    ]
    outside = {**body, "inputs": {"packed_parquet": "/etc"}}
    assert ("error", "path_not_allowed", "/inputs/packed_parquet") in findings(outside)


def test_a_key_of_any_possible_model_passes(body: Body) -> None:
    hybrid = {**body, "overrides": [*body["overrides"], "model.hybrid_layer_pattern=M*"]}
    assert plan(JobSpec(**hybrid), ANNA.tenant).ok
    with pytest.raises(InvalidSpec):
        plan(
            JobSpec(**{**body, "overrides": [*body["overrides"], "model.hybrid_layer_patern=M*"]}),
            ANNA.tenant,
        )


# -- before anything is submitted ------------------------------------------------------------------


def test_a_job_with_valid_files_is_submitted(body: Body, environment: pytest.MonkeyPatch) -> None:
    environment.setattr(SlurmBackend, "submit", lambda *_: "1")
    made = queries.get(create.create(JobSpec(**body), ANNA).job_id)
    submit.submit(made.id)
    assert queries.get(made.id).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda inputs: shutil.rmtree(inputs / "packed"), "missing_packed_data"),
        (lambda inputs: packed_data.make_dataset(inputs / "packed", rows=2), "too_few_rows"),
        (lambda inputs: (inputs / "model/config.json").unlink(), "bad_checkpoint"),
    ],
)
def test_a_job_with_invalid_files_fails_before_submission(
    job: Job, data_dir: Path, harm: Callable[[Path], object], code: str
) -> None:
    harm(data_dir / "inputs")
    submit.submit(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.FAILED, code)
    assert now.failure is not None
    assert now.failure["recovery"]


def test_a_save_directory_behind_a_link_is_rejected(body: Body, profile: Profile, data_dir: Path) -> None:
    roots = data_dir / "roots"
    (data_dir / "storage/team").mkdir(parents=True)
    roots.symlink_to("storage")  # the operator's
    (roots / "short").symlink_to("team")
    profile(roots=[str(roots), str(data_dir / "inputs")])
    found = {}
    for name in ("team", "short"):
        saves = {**body, "overrides": [*body["overrides"], f"checkpoint.save={roots}/{name}/new"]}
        job = queries.get(create.create(JobSpec(**saves), ANNA).job_id)
        found[name] = [(one.code, one.pointer) for one in submit._inspect(job) if one.severity == "error"]
    assert found == {"team": [], "short": [("path_not_allowed", "/checkpoint/save")]}


def test_a_key_unknown_to_the_model_is_found_on_the_cluster(body: Body) -> None:
    hybrid = {**body, "overrides": [*body["overrides"], "model.hybrid_layer_pattern=M*"]}
    made = queries.get(create.create(JobSpec(**hybrid), ANNA).job_id)
    submit.submit(made.id)
    now = queries.get(made.id)
    assert (now.state, now.reason_code) == (JobState.FAILED, "invalid_config")
    assert "hybrid_layer_pattern" in str(now.reason_message)


@pytest.mark.parametrize("name", ["packed", "model"])
def test_links_do_not_lead_out_of_the_roots(job: Job, data_dir: Path, name: str) -> None:
    (data_dir / "inputs" / name).rename(data_dir / "elsewhere")
    (data_dir / "inputs" / name).symlink_to(data_dir / "elsewhere")
    submit.submit(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.FAILED, "path_not_allowed")
    assert str(data_dir / "inputs" / name) in str(now.reason_message)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"port": 1}, "127.0.0.1"),
        ({"login_python": "/nowhere/python"}, "/nowhere/python"),
        ({"login_python": "/bin/true"}, "its answer was ''"),
    ],
)
def test_a_job_waits_for_an_unreachable_cluster(
    job: Job, profile: Profile, changed: Body, message: str
) -> None:
    profile(**changed)
    submit.submit(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.VALIDATING, "backend_unavailable")
    assert message in str(now.reason_message)


def test_without_an_interpreter_only_the_trainer_inspects_files(
    body: Body, data: Path, profile: Profile, environment: pytest.MonkeyPatch
) -> None:
    profile(login_python=None)
    environment.setattr(SlurmBackend, "submit", lambda *_: "1")
    made = queries.get(create.create(JobSpec(**body), ANNA).job_id)
    shutil.rmtree(data)
    submit.submit(made.id)
    assert queries.get(made.id).state is JobState.QUEUED


# -- inspections -----------------------------------------------------------------------------------


def bad(data: Path) -> None:
    columns = packed_data.packs(4)
    columns["loss_mask"][1] = [1]
    packed_data.write_shard(data / "splits/train/part-00000.parquet", columns)


@pytest.mark.parametrize("harm", [lambda _: None, bad, shutil.rmtree])
@pytest.mark.parametrize("full", [False, True])
def test_a_remote_inspection_equals_a_local_one(data: Path, harm: Callable[[Path], None], full: bool) -> None:
    harm(data)
    wanted = {"path": str(data), "full": full, "seq_length": 1024, "global_batch_size": 8}
    far, near = (
        dataset_inspection.inspect(DatasetRequest(cluster=name, **wanted), ANNA.tenant)
        for name in ("far", "near")
    )
    assert far == near.model_copy(update={"cluster": "far"})
    assert not far.ok


def test_a_remote_inspection_rejects_the_same_paths(data: Path, data_dir: Path) -> None:
    (data_dir / "inputs/link").symlink_to("/etc")
    for path in ("/etc", str(data_dir / "inputs/link")):
        with pytest.raises(InvalidSpec) as rejected:
            dataset_inspection.inspect(DatasetRequest(cluster="far", path=path), ANNA.tenant)
        assert [(one.pointer, one.code) for one in rejected.value.errors] == [("/path", "path_not_allowed")]


def test_a_remote_inspection_needs_an_interpreter(data: Path, profile: Profile) -> None:
    profile(login_python=None)
    with pytest.raises(InvalidSpec) as rejected:
        dataset_inspection.inspect(DatasetRequest(cluster="far", path=str(data)), ANNA.tenant)
    assert [(one.pointer, one.code) for one in rejected.value.errors] == [("/cluster", "not_reachable")]
    assert "login_python" in str(rejected.value.hint)


def test_a_failing_interpreter_is_reported(data: Path, profile: Profile, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    profile(login_python=str(bare))
    with pytest.raises(BackendUnavailable, match="No module named 'pydantic'") as failed:
        dataset_inspection.inspect(DatasetRequest(cluster="far", path=str(data)), ANNA.tenant)
    assert "pyarrow" in str(failed.value.hint)


def test_a_remote_inspection_runs_the_staged_code(data: Path) -> None:
    wanted = DatasetRequest(cluster="far", path=str(data))
    assert dataset_inspection.inspect(wanted, ANNA.tenant).ok
    backend = connect(cluster("far"))
    assert isinstance(backend, SlurmBackend)
    (backend.paths.code / "trainer/preflight/remote.py").write_text("raise SystemExit('It is staged.')")
    with pytest.raises(BackendUnavailable, match=r"It is staged\."):
        dataset_inspection.inspect(wanted, ANNA.tenant)
