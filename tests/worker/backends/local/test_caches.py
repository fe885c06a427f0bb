"""The cache of models that a run uses: one of each project, or a prepared one that no run changes."""

import json
from pathlib import Path

import pytest

from tests.support.local_runs import Make, interpreter, run, submit, wait_for
from worker.runs.observation import Phase


def test_projects_share_no_cache_of_models(backend: Make, tmp_path: Path) -> None:
    python = interpreter(tmp_path / "python", 'ls "$HF_HUB_CACHE" > "$RUN/seen"', 'touch "$HF_HUB_CACHE/own"')
    machine = backend(python=python, max_running=3)
    for job, project, found in (("a", "team", ""), ("b", "rivals", ""), ("c", "team", "own\n")):
        wait_for(machine, submit(machine, run(job, project=project)), Phase.ENDED)
        assert (machine.job_directory(job) / "attempts/1/seen").read_text() == found


def test_a_run_that_an_earlier_version_submitted_downloads_to_a_cache_of_its_own(
    backend: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    python = interpreter(
        tmp_path / "python", 'touch "$HF_HUB_CACHE/model"', 'echo "$HF_HUB_CACHE" > "$RUN/seen"'
    )
    machine = backend(python=python)
    submission = machine.render(run("job-1", project="team"))
    launch = json.loads(submission.files["run.json"])
    for later in ("downloads", "hub_cache"):
        launch["isolation"].pop(later, None)
    files = {**submission.files, "run.json": json.dumps(launch)}
    ended = wait_for(machine, machine.submit(submission.model_copy(update={"files": files})), Phase.ENDED)
    directory = machine.job_directory("job-1") / "attempts/1"
    assert (directory / "seen").read_text() == f"{directory}/hub\n", ended
    assert (directory / "hub" / "model").exists()
    assert list((tmp_path / "hub").iterdir()) == []


def test_offline_runs_read_a_prepared_cache_and_cannot_change_it(
    backend: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "model").write_text("weights")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    changes = ['touch "$HF_HUB_CACHE/x"', 'echo >> "$HF_HUB_CACHE/model"', 'rm "$HF_HUB_CACHE/model"']
    reads = 'cat "$HF_HUB_CACHE/model" > "$RUN/seen"'
    machine = backend(python=interpreter(tmp_path / "python", reads, *changes))
    wait_for(machine, submit(machine, run("job-1", project="team")), Phase.ENDED)
    assert (machine.job_directory("job-1") / "attempts/1/seen").read_text() == "weights"
    assert [path.read_text() for path in (tmp_path / "hub").iterdir()] == ["weights"]
    assert not (machine.root / "caches").exists()
