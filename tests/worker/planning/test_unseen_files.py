"""A cluster over SSH, whose files the service does not see: plans, checks, inspections. No Slurm is asked."""

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
    """Changes the profile of the cluster `far`."""

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
    """A job that was just created, on a cluster that submits nothing."""
    handed_over: list[str] = []
    environment.setattr(SlurmBackend, "submit", lambda _, submission: handed_over.append(submission.name))
    yield queries.get(create.create(JobSpec(**body), ANNA).job_id)
    assert handed_over == []


# -- plans -----------------------------------------------------------------------------------------


def findings(body: Body) -> list[tuple[str, str, str]]:
    return [(one.severity, one.code, one.pointer) for one in plan(JobSpec(**body), None).checks]


UNVERIFIED = [
    ("unverified", "unseen_data", "/inputs/packed_parquet"),
    ("unverified", "unseen_model", "/overrides/0"),
]


def test_a_plan_looks_at_nothing_that_happens_to_lie_here(body: Body, data: Path, data_dir: Path) -> None:
    # Sizes that would not fit, and what the estimate would want beside the config's own.
    (data_dir / "inputs/model/config.json").write_text('{"num_attention_heads": 3, "vocab_size": 100}')
    body["resources"] = {"gpus_per_node": 2}
    shape = ["recipe.tensor_model_parallel_size=2", "model.num_layers=2", "model.hidden_size=64"]
    body["overrides"] = [*body["overrides"], *shape]
    here = plan(JobSpec(**body), None)
    assert (here.ok, here.memory, here.recipe) == (True, None, None)
    assert findings(body) == UNVERIFIED
    assert all("cluster" in one.message and one.hint for one in here.checks)
    shutil.rmtree(data_dir / "inputs")
    assert plan(JobSpec(**body), None) == here


def test_what_needs_no_files_is_still_checked(body: Body, data_dir: Path) -> None:
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


def test_a_key_of_any_model_that_it_may_be_passes(body: Body) -> None:
    hybrid = {**body, "overrides": [*body["overrides"], "model.hybrid_layer_pattern=M*"]}
    assert plan(JobSpec(**hybrid), None).ok
    with pytest.raises(InvalidSpec):
        plan(JobSpec(**{**body, "overrides": [*body["overrides"], "model.hybrid_layer_patern=M*"]}), None)


# -- before anything is submitted ------------------------------------------------------------------


def test_good_files_let_a_job_go_on(body: Body, environment: pytest.MonkeyPatch) -> None:
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
def test_bad_files_end_a_job_before_it_is_submitted(
    job: Job, data_dir: Path, harm: Callable[[Path], object], code: str
) -> None:
    harm(data_dir / "inputs")
    submit.submit(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.FAILED, code)
    assert now.failure is not None
    assert now.failure["recovery"]


def test_a_key_that_the_model_does_not_have_is_found_where_the_model_is(body: Body) -> None:
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
    ("changed", "says"),
    [
        ({"port": 1}, "127.0.0.1"),
        ({"login_python": "/nowhere/python"}, "/nowhere/python"),
        ({"login_python": "/bin/true"}, "its answer was ''"),
    ],
)
def test_where_nobody_answers_a_job_waits(job: Job, profile: Profile, changed: Body, says: str) -> None:
    profile(**changed)
    submit.submit(job.id)
    now = queries.get(job.id)
    assert (now.state, now.reason_code) == (JobState.VALIDATING, "backend_unavailable")
    assert says in str(now.reason_message)


def test_without_an_interpreter_the_trainer_is_the_first_to_look(
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
def test_an_inspection_says_there_what_it_says_here(
    data: Path, harm: Callable[[Path], None], full: bool
) -> None:
    harm(data)
    wanted = {"path": str(data), "full": full, "seq_length": 1024, "global_batch_size": 8}
    far, near = (
        dataset_inspection.inspect(DatasetRequest(cluster=name, **wanted)) for name in ("far", "near")
    )
    assert far == near.model_copy(update={"cluster": "far"})
    assert not far.ok


def test_an_inspection_refuses_what_it_refuses_here(data: Path, data_dir: Path) -> None:
    (data_dir / "inputs/link").symlink_to("/etc")
    for path in ("/etc", str(data_dir / "inputs/link")):
        with pytest.raises(InvalidSpec) as refused:
            dataset_inspection.inspect(DatasetRequest(cluster="far", path=path))
        assert [(one.pointer, one.code) for one in refused.value.errors] == [("/path", "path_not_allowed")]


def test_an_inspection_needs_an_interpreter_there(data: Path, profile: Profile) -> None:
    profile(login_python=None)
    with pytest.raises(InvalidSpec) as refused:
        dataset_inspection.inspect(DatasetRequest(cluster="far", path=str(data)))
    assert [(one.pointer, one.code) for one in refused.value.errors] == [("/cluster", "not_reachable")]
    assert "login_python" in str(refused.value.hint)


def test_an_interpreter_that_fails_says_why(data: Path, profile: Profile, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    bare.chmod(0o755)
    profile(login_python=str(bare))
    with pytest.raises(BackendUnavailable, match="No module named 'pydantic'") as failed:
        dataset_inspection.inspect(DatasetRequest(cluster="far", path=str(data)))
    assert "pyarrow" in str(failed.value.hint)


def test_what_looks_is_the_code_of_the_service(data: Path) -> None:
    wanted = DatasetRequest(cluster="far", path=str(data))
    assert dataset_inspection.inspect(wanted).ok
    backend = connect(cluster("far"))
    assert isinstance(backend, SlurmBackend)
    (backend.paths.code / "trainer/preflight/remote.py").write_text("raise SystemExit('It is staged.')")
    with pytest.raises(BackendUnavailable, match=r"It is staged\."):
        dataset_inspection.inspect(wanted)
