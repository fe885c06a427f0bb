"""A child process of the sandbox, and what its parent makes of its end."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.file_bombs import memo_bomb, save_with_index, slow_bomb
from tests.support.inputs import make_inputs
from tests.support.waiting import wait_until
from trainer.preflight.remote import DataRequest
from worker.errors import BackendUnavailable
from worker.sandbox import inspections, pool
from worker.sandbox.process import Child


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
    assert process.wait(30) is not None


def test_requests_wait_for_a_bounded_time(environment: pytest.MonkeyPatch, data_dir: Path) -> None:
    environment.setattr(pool, "WAIT_SECONDS", 0.01)
    request = DataRequest.model_validate_json(data_request(data_dir))
    for _ in range(pool.MOST_CHILDREN):
        assert inspections._POOL._free.acquire(timeout=30)
    try:
        with pytest.raises(BackendUnavailable, match="Other requests"):
            inspections.inspect(request)
    finally:
        for _ in range(pool.MOST_CHILDREN):
            inspections._POOL._free.release()
    assert inspections.inspect(request).data is not None
