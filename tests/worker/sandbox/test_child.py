"""A child process of the sandbox, and what its parent makes of its end."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.file_bombs import memo_bomb, save_with_index, slow_bomb
from tests.support.inputs import make_inputs
from tests.support.process import forget_settings
from tests.support.waiting import wait_until
from trainer.preflight.remote import DataRequest
from worker.backends.local.status import warnings
from worker.errors import BackendUnavailable, ServiceUnavailable
from worker.sandbox import bubblewrap, inspections, pool, status
from worker.sandbox.functions import WeightsRequest
from worker.sandbox.mounts import view_of
from worker.sandbox.process import Child
from worker.sandbox.view import ChildView
from worker.settings import PROJECT_ROOT


@pytest.fixture
def child() -> Iterator[Child]:
    running = Child()
    yield running
    running.end()


def data_request(data_dir: Path) -> str:
    make_inputs(data_dir)
    inputs = data_dir / "inputs"
    return DataRequest(path=str(inputs / "packed"), roots=[inputs]).model_dump_json()


def checkpoint_request(directory: Path) -> str:
    """A request about a checkpoint that lies inside the roots."""
    config = {"hf_model_path": "org/model", "checkpoint_megatron": str(directory)}
    hardware = {"nodes": 1, "gpus_per_node": 1}
    return json.dumps({"kind": "config", "config": config, "hardware": hardware, "roots": [str(directory)]})


def test_a_child_answers_and_says_what_it_has_looked_at(child: Child, data_dir: Path) -> None:
    reply = child.ask("inspect", 10, data_request(data_dir))
    assert reply.answer is not None
    assert json.loads(reply.answer)["data"]["rows"] == 16
    packed = data_dir / "inputs" / "packed"
    expected = [packed / "metadata.json", packed / "splits/train/part-00000.parquet", packed / "splits/valid"]
    looked_at = {path for path, _, _ in reply.seen}
    assert {str(path) for path in (*expected, data_dir / "inputs")} <= looked_at
    missing = reply.seen[str(packed / "splits" / "metadata.json"), True, False]
    assert len(missing.identity) == 1  # the number of the error
    assert child.is_usable


@pytest.mark.parametrize("is_link", [False, True])
def test_a_child_sees_its_roots_and_nothing_of_the_service(
    environment: pytest.MonkeyPatch, data_dir: Path, tmp_path: Path, is_link: bool
) -> None:
    request = data_request(data_dir)
    for name in ("jobs/job-1/run.json", "local/x", "admin.key", "sft.db", "clusters.toml"):
        (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / name).write_text("private")
    if is_link:
        (data_dir / "inputs").rename(tmp_path / "disk")
        (data_dir / "inputs").symlink_to("../disk")
    child = Child(view_of([data_dir / "inputs"]))
    try:
        root = Path(f"/proc/{child.pid}/root")
        inside = root / data_dir.relative_to("/")
        assert {path.name for path in inside.iterdir()} - {"jobs"} == {"inputs"}
        assert list((inside / "jobs").iterdir()) == []
        for place in (inside, root / "tmp", root / tmp_path.relative_to("/")):
            with pytest.raises(OSError, match="Read-only"):
                (place / "written").touch()
        assert len([path for path in (root / "proc").iterdir() if path.name.isdigit()]) == 2
        reply = child.ask("inspect", 10, request)
        assert reply.answer is not None
        assert json.loads(reply.answer)["data"]["rows"] == 16
        assert all(one.is_unchanged() for one in reply.seen.values())
    finally:
        child.end()


def test_a_child_starts_where_its_code_lies_in_the_data_directory(
    environment: pytest.MonkeyPatch, data_dir: Path
) -> None:
    """The clone holds the environment of the tests, too."""
    environment.setenv("SFT_DATA_DIR", str(PROJECT_ROOT))
    forget_settings()
    request = data_request(data_dir)
    child = Child(view_of([data_dir / "inputs"]))
    try:
        inside = Path(f"/proc/{child.pid}/root") / PROJECT_ROOT.relative_to("/")
        assert {path.name for path in inside.iterdir()} <= {"worker", "trainer", ".venv"}
        reply = child.ask("inspect", 10, request)
        assert (reply.answer is not None, reply.why) == (True, "")
    finally:
        child.end()


def test_links_to_links_are_shown_but_not_those_that_a_root_holds(
    environment: pytest.MonkeyPatch, data_dir: Path, tmp_path: Path
) -> None:
    (data_dir / "real").mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    for name, target in (("first", "second"), ("second", "../disk"), ("real/a", "b"), ("loop", "loop")):
        (data_dir / name).symlink_to(target)
    roots = [data_dir / name for name in ("first", "real", "real/a", "loop")]
    found = {path.removeprefix(f"{data_dir}/"): target for path, target in view_of(roots).links}
    assert found == {"first": "second", "second": "../disk"}


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Iterator[Callable[[str], None]]:
    """Let bwrap fail for command lines that hold a word."""
    bwrap, directory = bubblewrap.program(), data_dir.parent / "bin"
    caches = (status.obstacle, bubblewrap.obstacle)

    def fail(word: str) -> None:
        directory.mkdir()
        (directory / "bwrap").write_text(
            f'#!/bin/sh\ncase "$*" in *{word}*) echo "bwrap: no $0" >&2; exit 1; esac\nexec {bwrap} "$@"\n'
        )
        (directory / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        for cache in caches:
            cache.cache_clear()

    yield fail
    for cache in caches:
        cache.cache_clear()
    status.note_start()


def test_where_the_interpreter_does_not_start_in_bubblewrap_children_see_what_the_service_sees(
    failing: Callable[[str], None], environment: pytest.MonkeyPatch
) -> None:
    failing("import")
    assert "processes that inspect files are not isolated: bwrap: no " in warnings()[-1]
    child = Child(view_of([]))
    child.end()
    assert child._first is None


def test_a_child_that_does_not_start_is_reported_until_one_starts(
    failing: Callable[[str], None], environment: pytest.MonkeyPatch
) -> None:
    before = warnings()
    failing("worker.sandbox.child")
    with pytest.raises(ServiceUnavailable):
        Child(view_of([]))
    [warning] = set(warnings()) - set(before)
    assert "does not start (it ended with 1)" in warning
    environment.setenv("PATH", os.environ["PATH"].partition(":")[2])
    Child(view_of([])).end()
    assert warnings() == before


def test_a_job_directory_is_shown_to_requests_about_this_job(
    environment: pytest.MonkeyPatch, data_dir: Path
) -> None:
    (data_dir / "jobs" / "job-1").mkdir(parents=True)
    roots = [data_dir / "inputs", data_dir / "jobs" / "job-1"]
    before = view_of(roots)
    assert [path for path, *_ in before.shown] == [str(data_dir / "jobs" / "job-1")]
    (data_dir / "inputs").mkdir()
    assert [path for path, *_ in view_of(roots).shown] == [str(root) for root in roots]


def test_a_child_serves_one_project(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    monkeypatch.setattr(pool, "MAX_CHILDREN", 2)
    own, request = pool.Pool(), data_request(data_dir)

    def pids(project: str) -> list[int]:
        assert own.ask(pool.Use(project, ChildView()), "inspect", 10, request).answer
        return [place.child.pid for place in own._idle if place.child]

    try:
        [first] = pids("team")
        [_, second] = pids("rivals")
        assert pids("team") == [second, first]
        [kept, third] = pids("third")
        assert (kept, third in (first, second)) == (first, False)
        assert not psutil.pid_exists(second)
    finally:
        own.close()


def test_exports_end_no_child_of_plans_or_other_projects(
    environment: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch, data_dir: Path
) -> None:
    monkeypatch.setattr(pool, "MAX_CHILDREN", 3)
    own, request = pool.Pool(), WeightsRequest(names=[], index="", project="").model_dump_json()
    jobs = [data_dir / "jobs" / name for name in ("job-1", "job-2")]
    for path in (data_dir / "inputs", *jobs):
        path.mkdir(parents=True)

    def pid(project: str, *more: Path) -> int:
        use = pool.Use(project, view_of([data_dir / "inputs", *more]))
        assert own.ask(use, "export", 10, request).answer
        [found] = [place.child.pid for place in own._idle if place.child and place.use == use]
        return found

    try:
        plans, rivals = pid("team"), pid("rivals")
        exports = {pid("team", job) for job in jobs}
        assert (pid("team"), pid("rivals"), len(exports)) == (plans, rivals, 2)
    finally:
        own.close()


def test_a_child_that_waits_for_files_is_ended(child: Child, data_dir: Path) -> None:
    request = data_request(data_dir)
    process = psutil.Process(child.pid)
    process.suspend()
    reply = child.ask("inspect", 0.2, request)
    assert (reply.answer, reply.stalled) == (None, True)
    assert not process.is_running()
    assert not child.is_usable


def test_a_killed_child_is_not_a_valid_answer(child: Child, data_dir: Path) -> None:
    request = checkpoint_request(save_with_index(data_dir / "save", slow_bomb()))
    process = psutil.Process(child.pid)

    begun = sum(process.cpu_times()[:2])

    def kill_when_busy() -> None:
        wait_until(lambda: sum(process.cpu_times()[:2]) > begun + 0.2, what="the child to be busy")
        process.kill()

    killer = threading.Thread(target=kill_when_busy)
    killer.start()
    reply = child.ask("inspect", 60, request)
    killer.join()
    assert (reply.answer, reply.stalled) == (None, False)
    assert "SIGKILL" in reply.why
    assert reply.opened == str(data_dir / "save/iter_0000007/.metadata")


def test_the_kernel_ends_a_child_after_its_time(child: Child, data_dir: Path) -> None:
    request = checkpoint_request(save_with_index(data_dir / "save", slow_bomb()))
    reply = child.ask("inspect", 1, request)
    assert (reply.answer, reply.stalled, reply.why) == (None, False, "it takes more than 1 s")


def test_memory_that_runs_out_is_a_finding(child: Child, data_dir: Path) -> None:
    reply = child.ask("inspect", 10, checkpoint_request(save_with_index(data_dir / "save", memo_bomb())))
    assert reply.answer is not None
    assert [one["code"] for one in json.loads(reply.answer)["findings"]].count("hostile_checkpoint") == 1


def test_an_unforeseen_exception_says_where(child: Child) -> None:
    reply = child.ask("inspect", 10, "{}")
    assert "ValidationError" in reply.why
    assert not child.is_usable


def test_a_child_ends_with_its_parent(child: Child) -> None:
    process = psutil.Process(child.pid)
    child._socket.close()  # as the kernel does when the service is killed
    process.wait(30)
    assert not process.is_running()


@pytest.mark.parametrize("busy", [0, pool.MAX_OF_PROJECT])
def test_requests_wait_for_a_bounded_time(environment: pytest.MonkeyPatch, data_dir: Path, busy: int) -> None:
    """busy: children of the request's project; with none, those of others take all places."""
    environment.setattr(pool, "WAIT_SECONDS", 0.01)
    request = DataRequest.model_validate_json(data_request(data_dir))
    projects = [request.project] * busy or [str(number) for number in range(pool.MAX_CHILDREN)]
    taken = [inspections._POOL._take(pool.Use(project, ChildView())) for project in projects]
    try:
        with pytest.raises(BackendUnavailable, match="Other requests"):
            inspections.inspect(request)
    finally:
        for place, project in zip(taken, projects, strict=True):
            inspections._POOL._give_back(place, project)
    assert inspections.inspect(request).data is not None
