"""The run directory: one module names its files, and docs/job-directory.md describes them."""

from pathlib import Path

from tests.support.trainer_runs import PROJECT
from trainer.run_layout import JobLayout, RunLayout

JOB = JobLayout(Path("/jobs/job-1"))


def test_an_attempt_lies_in_its_job() -> None:
    run = JOB.attempt(2)
    assert run.directory == Path("/jobs/job-1/attempts/2")
    assert run.job == JOB
    assert run.attempt(3) == JOB.attempt(3)


def test_every_file_is_described() -> None:
    text = (PROJECT / "docs" / "job-directory.md").read_text()
    run = JOB.attempt(1)
    files = [value for name in vars(RunLayout) if isinstance(value := getattr(run, name, None), Path)]
    assert {path.name for path in files} >= {"events.jsonl", "end.json", "claim", "stop"}
    assert [path.name for path in (*files, run.log(), JOB.checkpoints) if path.name not in text] == []
    assert run.log(7).name == "rank-7.log"
