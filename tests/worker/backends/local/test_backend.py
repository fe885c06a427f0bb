"""The local backend: rendering, slots, single starts, time limits, complete ends."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import psutil
import pytest

from tests.support.concurrency import at_once
from tests.support.local_runs import Make, events, handle, interpreter, observe, run, submit, wait_for
from tests.support.service import is_supervisor, kill_runs, processes_of_runs
from tests.support.waiting import wait_until
from worker.backends.local import backend as local
from worker.backends.local import supervisor
from worker.backends.local.backend import LocalBackend
from worker.errors import SubmissionRejected
from worker.runs.observation import Phase
from worker.runs.run import Resources, Run
from worker.settings import PROJECT_ROOT

GOLDEN = PROJECT_ROOT / "tests" / "golden" / "local"


def test_a_run_renders_to_the_golden_files() -> None:
    backend = LocalBackend(
        root=Path("/data"),
        python=Path("/env/bin/python"),
        max_running=1,
        env_vars={"TEAM": "a b"},
        cluster="local",
        roots=(Path("/data/inputs"),),
        readable=(Path("/opt/../srv/code"),),
        isolation="required",
    )
    config = {"hf_model_path": "/m/ö; rm -rf '$HOME'", "train": {"train_iters": 3}, "peft": None}
    resources = Resources(nodes=1, gpus_per_node=2, time_limit_minutes=7)
    submission = backend.render(Run("job-1", 2, config, resources, project="support"))
    assert (submission.name, submission.directory) == ("job-1.2", "/data/jobs/job-1/attempts/2")
    assert json.loads(submission.files["run.json"])["command"] == submission.command
    # To accept a change: write what is rendered into the files, and read the difference.
    rendered = {name: text.replace(str(PROJECT_ROOT), "PROJECT") for name, text in submission.files.items()}
    assert rendered == {name: (GOLDEN / name).read_text() for name in ("config.yaml", "run.json")}


def test_runs_beyond_the_slots_wait_in_order(backend: Make, data_dir: Path) -> None:
    machine = backend(max_running=1)
    names = [submit(machine, run(f"job-{n}")) for n in range(3)]
    wait_for(machine, names[0], Phase.RUNNING)
    seen = machine.poll([handle(name) for name in names])
    assert [seen[name].phase for name in names] == [Phase.RUNNING, Phase.QUEUED, Phase.QUEUED]
    assert "ahead of it: 1." in seen[names[2]].message
    machine.cancel(handle(names[0]))
    wait_for(machine, names[0], Phase.ENDED)
    assert wait_for(machine, names[1], Phase.RUNNING)
    assert observe(machine, names[2]).phase is Phase.QUEUED


def test_projects_take_turns(backend: Make) -> None:
    local = backend()
    for name in ("a-1", "a-2", "a-3", "a-4"):
        submit(local, run(name, project="team"))
    submit(local, run("b-1", project="rivals"))
    submit(local, run("b-2", project="rivals"))
    wait_for(local, "a-1.1", Phase.RUNNING)
    seen = {name: observe(local, f"{name}.1").message for name in ("b-1", "a-2", "b-2", "a-3", "a-4")}
    assert [message.rpartition(" ")[2] for message in seen.values()] == ["0.", "1.", "2.", "3.", "4."]
    order = ["a-1.1", "b-1.1", "a-2.1", "b-2.1", "a-3.1", "a-4.1"]
    for running, following in pairwise(order):
        local.cancel(handle(running))
        wait_for(local, following, Phase.RUNNING)
    local.cancel(handle(order[-1]))


def test_concurrent_workers_start_each_run_once(backend: Make, data_dir: Path) -> None:
    machine = backend(max_running=2)
    submissions = [machine.render(run(f"job-{n}")) for n in range(4)]
    at_once(8, lambda: [machine.submit(submission) for submission in submissions])
    names = [submission.name for submission in submissions]
    at_once(8, lambda: machine.poll([handle(name) for name in names]))
    wait_until(lambda: sum("step" in events(machine, f"job-{n}") for n in range(4)) == 2)
    running = [
        name
        for name, seen in machine.poll([handle(name) for name in names]).items()
        if seen.phase is Phase.RUNNING
    ]
    assert len(running) == 2
    for name in running:
        assert events(machine, name.removesuffix(".1")).count("started") == 1


def test_a_second_submission_changes_nothing(backend: Make) -> None:
    machine = backend()
    name = submit(machine, run("job-1", "train", save=machine.root / "saved"))
    wait_for(machine, name, Phase.ENDED)
    assert submit(machine, run("job-1", "train")) == name
    assert observe(machine, name).phase is Phase.ENDED
    assert events(machine, "job-1").count("started") == 1


def test_a_run_inherits_no_secrets(backend: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {"DATABASE_URL": "canary-1", "SFT_REDIS_URL": "canary-2", "AWS_SECRET_ACCESS_KEY": "canary-3"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    machine = backend()
    submit(machine, run("job-1"))
    wait_until(lambda: "step" in events(machine, "job-1"))
    processes = processes_of_runs(machine.root)
    assert len(processes) >= 3
    for process in processes:
        environment = process.environ()
        assert not [value for value in environment.values() if value.startswith("canary")]
        assert is_supervisor(process) or environment["TEAM"] == "a b"
    written = [path.read_text(errors="replace") for path in machine.root.rglob("*") if path.is_file()]
    assert not any("canary" in text for text in written)


def test_the_time_limit_lets_a_run_save_and_then_ends_it(backend: Make, data_dir: Path) -> None:
    machine = backend()
    a_run = run("job-1", save=data_dir / "saved")
    submission = machine.render(a_run)
    limited = json.loads(submission.files["run.json"]) | {"time_limit_seconds": 2}
    files = {**submission.files, "run.json": json.dumps(limited)}
    name = machine.submit(submission.model_copy(update={"files": files}))
    seen = wait_for(machine, name, Phase.ENDED)
    assert seen.code == "time_limit"
    assert events(machine, "job-1")[-2:] == ["checkpoint", "stopped"]
    assert processes_of_runs(data_dir) == []


def test_a_cancelled_run_leaves_no_process(backend: Make, data_dir: Path) -> None:
    machine = backend()
    name = submit(machine, run("job-1", ranks=3))
    # A step event comes from one rank; the others may not have started by then.
    wait_until(lambda: len(processes_of_runs(data_dir)) >= 5, what="supervisor, launcher, three ranks")
    machine.cancel(handle(name))
    assert wait_for(machine, name, Phase.ENDED).code == "cancelled"
    assert processes_of_runs(data_dir) == []

    machine.cancel(handle(name))  # a second cancel is no error


def test_a_cancelled_run_leaves_no_process_that_hides(backend: Make, tmp_path: Path) -> None:
    """Without its environment and parents, a process is found only by its PID namespace."""
    seconds = "86397.5"
    hiding = f'(setsid env -i /bin/sleep {seconds} &) ; touch "$RUN/ready" ; exec /bin/sleep {seconds}'
    machine = backend(python=interpreter(tmp_path / "python", hiding))
    name = submit(machine, run("job-1"))
    wait_until((machine.job_directory("job-1") / "attempts/1/ready").exists, what="the hidden process")
    command = ["/bin/sleep", seconds]
    hidden = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == command]
    assert len(hidden) == 2
    machine.cancel(handle(name))
    assert wait_for(machine, name, Phase.ENDED).code == "cancelled"
    assert not any(process.is_running() for process in hidden)


def test_the_supervisor_follows_no_link_of_its_run(backend: Make, data_dir: Path, tmp_path: Path) -> None:
    canary = data_dir / "admin.key"
    canary.write_text("key")
    pid = """supervisor=$(sed 's/[^0-9]*\\([0-9]*\\).*/\\1/' "$RUN/pid.json")"""
    links = f'for name in stop exit.json "exit.$supervisor.new"; do ln -s {canary} "$RUN/$name"; done'
    wait = 'while [ -L "$RUN/stop" ]; do sleep 0.05; done'
    machine = backend(python=interpreter(tmp_path / "python", pid, links, wait))
    submission = machine.render(run("job-1"))
    limited = json.loads(submission.files["run.json"]) | {"time_limit_seconds": 1}
    files = {**submission.files, "run.json": json.dumps(limited)}
    name = machine.submit(submission.model_copy(update={"files": files}))
    assert wait_for(machine, name, Phase.ENDED).code == "time_limit"
    assert (machine.job_directory("job-1") / "attempts/1/exit.json").is_symlink() is False
    assert canary.read_text() == "key"


def test_a_root_that_is_a_link_has_both_names(backend: Make, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to("disk")
    writes = [f"touch {tmp_path}/{name}" for name in ("root/a", "disk/b", "c")]
    machine = replace(backend(python=interpreter(tmp_path / "python", *writes)), roots=(tmp_path / "root",))
    wait_for(machine, submit(machine, run("job-1")), Phase.ENDED)
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"a", "b"}
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("target", ["{data}", "{data}/..", "{data}/jobs"])
def test_a_root_that_became_a_link_to_the_service_starts_no_run(
    backend: Make, tmp_path: Path, data_dir: Path, target: str
) -> None:
    (data_dir / "jobs").mkdir()
    (tmp_path / "root").symlink_to(target.format(data=data_dir))
    machine = replace(backend(), roots=(tmp_path / "root",))
    ended = wait_for(machine, submit(machine, run("job-1")), Phase.ENDED)
    assert (ended.code, "link to files of the service" in ended.message) == ("start_failed", True)


def test_a_run_that_marks_itself_cancelled_keeps_its_slot(backend: Make) -> None:
    machine = backend(max_running=1)
    first, second = submit(machine, run("job-1")), submit(machine, run("job-2"))
    wait_for(machine, first, Phase.RUNNING)
    (machine.job_directory("job-1") / "attempts/1/cancelled").touch()
    seen = machine.poll([handle(first), handle(second)])
    assert (seen[first].phase, seen[second].phase) == (Phase.RUNNING, Phase.QUEUED)


@pytest.fixture
def public() -> Iterator[Path]:
    """Return a directory that other accounts can search; pytest's own belong to the user alone."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    kill_runs(path)
    shutil.rmtree(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other accounts")
@pytest.mark.parametrize("isolation", ["auto", "off"])
def test_an_account_of_its_own_isolates_a_run_with_and_without_namespaces(
    public: Path, isolation: Literal["auto", "off"]
) -> None:
    data = public / "data"
    data.mkdir(0o700)
    (data / "admin.key").write_text("key")
    (data / "admin.key").chmod(0o600)
    attempts = [
        f"cat {data}/admin.key", f"touch {data}/x", 'rm -f "$RUN/run.json"',
        'mv "$RUN/config.yaml" "$RUN/moved"', 'touch "$RUN/../../x"', 'mv "$RUN/logs" "$RUN/l"',
    ]  # fmt: skip
    tried = [f'{attempt} && echo "{attempt}" >> "$RUN/escapes"' for attempt in attempts]
    cache = '[ -z "$HF_HUB_CACHE" ] || touch "$HF_HUB_CACHE/x"'
    ends = [cache, 'id -u > "$RUN/uid"', 'cat "$RUN/config.yaml" && touch "$RUN/../../checkpoints/x"']
    machine = LocalBackend(
        root=data, python=interpreter(public / "python", *tried, *ends), max_running=1, env_vars={},
        cluster="local", isolation=isolation, run_as="nobody",
    )  # fmt: skip
    name = submit(machine, run("job-1", project="team"))
    ended = wait_for(machine, name, Phase.ENDED)
    directory = machine.job_directory("job-1")
    log = (directory / "attempts/1/logs/job.log").read_text()
    assert ended.code == "exited", log
    assert not (directory / "attempts/1/escapes").exists(), log
    assert int((directory / "attempts/1/uid").read_text()) == pwd.getpwnam("nobody").pw_uid
    assert (directory / "checkpoints/x").exists(), log
    assert (data / "caches/local/team/x").exists() is (isolation == "auto"), log


def test_ranks_without_their_launcher_are_ended(backend: Make, data_dir: Path) -> None:
    machine = backend()
    name = submit(machine, run("job-1", ranks=2))
    wait_until(lambda: "step" in events(machine, "job-1"))
    found = [p for p in processes_of_runs(data_dir) if "torch.distributed.run" in p.cmdline()]
    [launcher] = [process for process in found if process.name() != "bwrap"]
    launcher.kill()
    assert wait_for(machine, name, Phase.ENDED).code == "exited"
    assert processes_of_runs(data_dir) == []


def test_a_run_cancelled_before_its_start_never_starts(backend: Make) -> None:
    machine = backend()
    first, second = submit(machine, run("job-1")), submit(machine, run("job-2"))
    machine.cancel(handle(second))
    assert observe(machine, second).code == "cancelled"
    submit(machine, run("job-2"))  # a late message
    machine.cancel(handle(first))
    wait_for(machine, first, Phase.ENDED)
    machine.poll([handle(first), handle(second)])
    assert events(machine, "job-2") == []


@pytest.mark.parametrize("forged", [False, True])
def test_another_process_with_the_same_pid_is_not_the_run(backend: Make, forged: bool) -> None:
    machine = backend()
    name = submit(machine, run("job-1"))
    wait_until(lambda: "step" in events(machine, "job-1"))
    directory = machine.job_directory("job-1") / "attempts/1"
    pid = json.loads((directory / "pid.json").read_text())["pid"]
    os.kill(pid, 9)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ticks = supervisor._start_ticks(bystander.pid) if forged else 1
    (directory / "pid.json").write_text(json.dumps({"pid": bystander.pid, "start_ticks": ticks}))
    try:
        seen = wait_for(machine, name, Phase.ENDED)
        assert seen.code == "killed"
        machine.cancel(handle(name))
        assert bystander.poll() is None
        assert processes_of_runs(machine.root) == []
    finally:
        bystander.kill()
        bystander.wait()


def test_a_failed_run_reports_the_kernels_oom_kills(tmp_path: Path) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 1\noom_kill_x 9\noom_kill 3\npgfault 7\n")
    assert supervisor.oom_kills(counters) == 3
    assert supervisor.oom_kills(tmp_path / "none") == 0
    assert supervisor.oom_kills() >= 0
    killed = supervisor.exit_of(1, kills=2)
    assert (killed["reason"], "2 processes" in killed["message"]) == ("oom_killed", True)
    assert supervisor.exit_of(1, kills=0)["reason"] == supervisor.exit_of(0, kills=2)["reason"] == "exited"


def test_a_run_with_broken_records_harms_no_other(backend: Make) -> None:
    machine = backend(max_running=2)
    bad, good = submit(machine, run("job-1")), submit(machine, run("job-2"))
    wait_until(lambda: "step" in events(machine, "job-1") and "step" in events(machine, "job-2"))
    directory = machine.job_directory("job-1") / "attempts/1"
    (directory / "pid.json").unlink()
    os.mkfifo(directory / "pid.json")
    (directory / "exit.json").mkdir()
    seen = machine.poll([handle(bad), handle(good)])
    assert (seen[bad].phase, seen[good].phase) == (Phase.ENDED, Phase.RUNNING)
    machine.cancel(handle(good))
    assert wait_for(machine, good, Phase.ENDED)


def test_a_cancel_that_overtakes_its_submission_wins(backend: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = backend()
    submission = machine.render(run("job-1"))
    original = local._rename

    def rename_and_cancel(source: Path, target: Path) -> None:
        original(source, target)
        machine.cancel(handle(submission.name))

    monkeypatch.setattr(local, "_rename", rename_and_cancel)
    machine.submit(submission)
    assert observe(machine, submission.name).code == "cancelled"
    assert processes_of_runs(machine.root) == []
    # A spool entry from before the cancel starts nothing either.
    (machine.root / "local/local.spool" / submission.name).touch()
    assert observe(machine, submission.name).code == "cancelled"
    assert processes_of_runs(machine.root) == []


def test_a_missing_environment_is_reported_with_a_hint(backend: Make) -> None:
    machine = backend(python=Path("/nowhere/python"))
    with pytest.raises(SubmissionRejected) as caught:
        submit(machine, run("job-1"))
    assert "make setup-trainer" in str(caught.value.hint)


def test_a_program_that_cannot_start_ends_with_start_failed(backend: Make, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("no program")
    machine = backend(python=broken)
    seen = wait_for(machine, submit(machine, run("job-1")), Phase.ENDED)
    assert seen.code == "start_failed"


def test_a_removed_directory_ends_the_run_and_frees_its_slot(backend: Make) -> None:
    machine = backend()
    name = submit(machine, run("job-1", "train", save=machine.root / "saved"))
    wait_for(machine, name, Phase.ENDED)
    shutil.rmtree(machine.job_directory("job-1"))
    assert observe(machine, name).code == "directory_missing"
    assert wait_for(machine, submit(machine, run("job-2")), Phase.RUNNING)
