"""A retry may change what the next attempt does; what it changes is checked as for a new job."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import packed_data
from tests.support.callers import ANNA
from tests.support.concurrency import at_once
from tests.support.process import forget_settings
from worker.db.models import Job
from worker.db.session import writing
from worker.errors import IllegalAction, InvalidSpec
from worker.jobs import actions, queries, transitions
from worker.jobs.retry import RetryRequest, suggestion
from worker.planning.plan import plan
from worker.planning.spec import JobSpec
from worker.states import JobState

JobIn = Callable[..., Job]


def failed_with(suggestion: dict[str, Any] | None) -> dict[str, Any]:
    return {"class": "oom", "cause": "c", "recovery": "r", "retryable": False, "suggestion": suggestion}


LONGER = failed_with({"field": "resources.time_limit_minutes", "from": 30, "to": 60})
FEWER = failed_with({"field": "train.train_iters", "from": 50, "to": 40})


def retry(job: Job, **request: Any) -> Job:
    return actions.retry(job.id, ANNA, RetryRequest(**request))


def changed(job: Job) -> list[tuple[str, Any, Any]]:
    """What the job's history says that its retry changed."""
    [event] = [event for event in queries.events(job.id, 0, 100) if event.type == "changed"]
    assert (event.actor, event.attempt) == ("anna", 2)
    return [(one["field"], one["from"], one["to"]) for one in event.data["changes"]]


def faults(job: Job, **request: Any) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSpec) as rejected:
        retry(job, **request)
    assert queries.get(job.id).state is JobState.FAILED
    return [(one.pointer, one.code) for one in rejected.value.errors]


def test_a_retry_that_changes_nothing_leaves_the_job_as_it_is(job_in: JobIn) -> None:
    job = job_in(JobState.FAILED, failure=FEWER)
    now = retry(job)
    kept = ("spec", "config", "resources", "plan_hash")
    assert {name: getattr(now, name) for name in kept} == {name: getattr(job, name) for name in kept}
    assert "changed" not in [event.type for event in queries.events(job.id, 0, 100)]


@pytest.mark.parametrize("overrides", [["train.train_iters=7"], {"train.train_iters": 7}])
def test_overrides_change_spec_config_and_plan(job_in: JobIn, overrides: Any) -> None:
    job = job_in(JobState.FAILED)
    now = queries.get(retry(job, overrides=overrides).id)
    assert (now.state, now.attempt) == (JobState.VALIDATING, 2)
    assert now.config["train"]["train_iters"] == 7
    assert now.config["checkpoint"]["save"] == job.config["checkpoint"]["save"]
    assert now.spec["overrides"] == [*job.spec["overrides"], "train.train_iters=7"]
    assert now.plan_hash != job.plan_hash
    assert changed(now) == [("train.train_iters", 50, 7)]


def test_an_object_of_overrides_and_a_list_can_be_mixed(spec: JobSpec, job_in: JobIn, data_dir: Path) -> None:
    values = {"hf_model_path": str(data_dir / "inputs/model"), "optimizer.lr": 1e-5, "peft": None}
    job = job_in(JobState.FAILED, spec=spec.model_copy(update={"overrides": values}).model_dump(mode="json"))
    now = retry(job, overrides=["peft=lora"])
    assert (now.config["optimizer"]["lr"], now.config["peft"]) == (1e-5, "lora")
    assert now.config["hf_model_path"] == values["hf_model_path"]


def test_the_suggestion_is_applied_before_the_overrides(job_in: JobIn) -> None:
    alone = retry(job_in(JobState.FAILED, failure=FEWER), apply_suggestion=True)
    assert alone.config["train"]["train_iters"] == 40
    both = retry(
        job_in(JobState.FAILED, failure=FEWER), apply_suggestion=True, overrides=["train.train_iters=30"]
    )
    assert both.config["train"]["train_iters"] == 30


def test_resources_are_changed_by_a_suggestion_or_by_name(job_in: JobIn) -> None:
    suggested = retry(job_in(JobState.FAILED, failure=LONGER), apply_suggestion=True)
    assert suggested.resources["time_limit_minutes"] == 60
    assert changed(suggested) == [("resources.time_limit_minutes", 30, 60)]
    named = retry(
        job_in(JobState.FAILED, failure=LONGER),
        apply_suggestion=True,
        resources={"time_limit_minutes": 90, "gpus_per_node": 2},
    )
    assert named.resources == {"nodes": 1, "gpus_per_node": 2, "time_limit_minutes": 90}
    before, now = queries.attempts(named.id)
    assert before.resources is not None
    assert (before.resources["gpus_per_node"], now.resources) == (1, named.resources)


def test_rejections_point_into_the_request_or_the_job(job_in: JobIn) -> None:
    job = job_in(JobState.FAILED)
    assert faults(job, overrides=["seq_lenght=1"]) == [("/overrides/0", "extra_forbidden")]
    assert faults(job, overrides=["a.b=1", "=x"]) == [("/overrides/1", "not_an_override")]
    assert faults(job, overrides={"seq_length": "many"}) == [("/overrides/seq_length", "int_parsing")]
    assert faults(job, overrides=["hf_model_path=/etc"]) == [("/overrides/0", "path_not_allowed")]
    assert faults(job, overrides=["a=\x07"]) == [("/overrides/0", "control_character")]
    too_long = {"time_limit_minutes": 99_999}
    assert faults(job, resources=too_long) == [("/resources/time_limit_minutes", "beyond_cluster")]
    assert faults(job, overrides=["dataset.nano3_packed_sft_dir=/x"]) == [
        ("/overrides/0", "path_not_allowed")
    ]
    assert faults(job, apply_suggestion=True) == [("/apply_suggestion", "no_suggestion")]


def test_a_job_may_continue_with_other_data(job_in: JobIn, data_dir: Path) -> None:
    job = job_in(JobState.FAILED)
    other = packed_data.make_dataset(
        data_dir / "inputs" / "other", tokenizer=str(data_dir / "inputs" / "model")
    )
    now = retry(job, overrides=[f"dataset.nano3_packed_sft_dir={other}"])
    assert now.config["dataset"]["nano3_packed_sft_dir"] == str(other)
    assert now.spec["inputs"]["packed_parquet"] is None


def test_a_retry_may_use_the_other_key_of_a_value(job_in: JobIn, spec: JobSpec) -> None:
    """The seed's manifest and NVIDIA's current one have different keys: see docs/seed.md."""
    before = spec.model_dump(mode="json")
    before["overrides"] = [*before["overrides"], "recipe.peft=lora", "recipe.seq_length=512"]
    job = job_in(JobState.FAILED, spec=before)
    now = retry(job, overrides=["peft=null", "seq_length=512"])
    assert (now.config["peft"], now.config["seq_length"]) == (None, 512)


def test_other_data_may_be_named_by_the_current_manifest(job_in: JobIn, data_dir: Path) -> None:
    job = job_in(JobState.FAILED)
    train = data_dir / "inputs" / "packed" / "splits" / "train"
    now = retry(job, overrides=[f"dataset.packed_sequence_specs.packed_train_data_path={train}"])
    assert now.config["dataset"]["nano3_packed_sft_dir"] == str(train)


@pytest.mark.parametrize(
    ("before", "now", "adapter", "dim"),
    [
        (["lora.dim=16", "peft=lora"], ["peft.dim=8"], "lora", 8),
        (["peft.dim=16"], ["lora.dim=8"], "lora", 8),
        (["peft.dim=16"], ["peft=null"], None, 16),
        (["peft=null", "lora.dim=16"], {"peft.dim": 8}, "lora", 8),
        (["lora.dim=16"], {"peft": {"dim": 8}}, "lora", 8),
        (["peft=null", "peft.dim=16"], ["seq_length=512"], None, 16),
        (["lora.dim=16"], {"peft.dim": 8, "recipe.peft": None}, None, 8),
    ],
)
def test_a_retry_may_name_an_adapter_by_either_manifest(
    job_in: JobIn, spec: JobSpec, before: list[str], now: Any, adapter: str | None, dim: int
) -> None:
    stored = spec.model_dump(mode="json")
    stored["overrides"] = [*stored["overrides"], *before]
    retried = retry(job_in(JobState.FAILED, spec=stored), overrides=now)
    assert (retried.config["peft"], retried.config["lora"]["dim"]) == (adapter, dim)


def test_a_retry_may_name_packing_by_either_manifest(job_in: JobIn, spec: JobSpec) -> None:
    stored = spec.model_dump(mode="json")
    stored["overrides"] = [*stored["overrides"], "dataset.offline_packing_specs.pad_seq_to_mult=1"]
    job = job_in(JobState.FAILED, spec=stored)
    now = retry(job, overrides=["dataset.packed_sequence_specs.pad_seq_to_mult=2"])
    assert now.config["dataset"]["offline_packing_specs"]["pad_seq_to_mult"] == 2


def test_a_suggestion_that_no_longer_holds_is_rejected(job_in: JobIn) -> None:
    for field, value in (("seq_length", "many"), ("resources.time_limit_minutes", 99_999)):
        change = failed_with({"field": field, "from": 1, "to": value})
        job = job_in(JobState.FAILED, failure=change)
        [(pointer, _)] = faults(job, apply_suggestion=True)
        assert pointer == "/apply_suggestion"


def test_a_fault_of_what_the_job_had_before_is_told_from_that_of_the_retry(
    job_in: JobIn, data_dir: Path
) -> None:
    job = job_in(JobState.FAILED)
    (data_dir / "inputs/model/config.json").unlink()
    assert faults(job, overrides=["train.train_iters=7"]) == [("/job/spec/overrides/0", "bad_checkpoint")]


def test_of_many_changing_retries_at_once_one_wins_completely(job_in: JobIn) -> None:
    job = job_in(JobState.FAILED)
    answers = at_once(8, lambda: retry(job, overrides=["train.train_iters=7"]))
    assert sum(isinstance(answer, Job) for answer in answers) == 1
    assert sum(isinstance(answer, IllegalAction) for answer in answers) == 7
    now = queries.get(job.id)
    assert now.spec["overrides"][1:] == ["train.train_iters=7"]
    assert changed(now) == [("train.train_iters", 50, 7)]


def test_the_plan_agreed_to_was_that_of_the_first_attempt(spec: JobSpec, job_in: JobIn) -> None:
    agreed = spec.model_copy(update={"plan_hash": plan(spec, ANNA.tenant).plan_hash}).model_dump(mode="json")
    now = retry(job_in(JobState.FAILED, spec=agreed), overrides=["train.train_iters=7"])
    assert now.spec["plan_hash"] is None


def test_a_job_that_runs_is_not_changed(job_in: JobIn) -> None:
    with pytest.raises(IllegalAction):
        retry(job_in(JobState.RUNNING), overrides=["train.train_iters=7"])


def test_an_attempt_keeps_its_failure(job_in: JobIn) -> None:
    job = job_in(JobState.FINALIZING)
    with writing() as session:
        transitions.move(session, queries.find(session, job.id), JobState.FAILED, failure=FEWER)
    retry(job)
    assert [attempt.failure for attempt in queries.attempts(job.id)] == [FEWER, None]


# -- what a failure suggests -------------------------------------------------------------------------


@pytest.fixture
def four_gpus(database: str, data_dir: Path) -> None:
    (data_dir / "clusters.toml").write_text(
        f'[local]\nmax_gpus_per_node = 4\ngpus_per_node = 4\nmax_time = "00:45:00"\n'
        f'roots = ["{data_dir}/inputs"]\n'
    )
    forget_settings()


def test_only_what_a_plan_accepts_is_suggested(four_gpus: None, job_in: JobIn) -> None:
    job = job_in(JobState.FAILED)
    found = suggestion(job, "time_limit")
    assert found is not None
    assert (found.field, found.current, found.to) == ("resources.time_limit_minutes", 30, 45)
    assert suggestion(job, "user_code") is None
    with writing() as session:
        session.get_one(Job, job.id).spec = {**job.spec, "cluster": "gone"}
    assert suggestion(queries.get(job.id), "time_limit") is None
