"""Files of clients are inspected in child processes: bombs and odd values are findings, never a 500.

Against the real service: its processes stay small, a child that takes too much is replaced, and an inspection
is repeated only if a file has changed.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.file_bombs import (
    ODD_CONFIGS,
    ODD_INDEXES,
    empty_lists,
    index_of,
    memo_bomb,
    save_with_index,
    slow_bomb,
)
from tests.support.inputs import make_inputs
from tests.support.reaper import lives
from tests.support.service import Service
from tests.support.waiting import wait_until
from trainer.preflight.limits import MEMORY_BYTES
from worker.sandbox.cache import TICK_NS

pytestmark = pytest.mark.slow

Body = dict[str, Any]
# On the code before, the bombs took 1.6 to 4.3 GB.
MAX_PROCESS = 450 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, stand_in: Path) -> Iterator[Service]:
    """Yield a service whose inspections take six seconds of CPU at most."""
    data_dir = tmp_path_factory.mktemp("service") / "data"
    data_dir.mkdir()
    settings = {"SFT_TRAINER_PYTHON": str(stand_in), "SFT_MAX_INSPECT_SECONDS": "1"}
    with Service(data_dir, SFT_POLL_INTERVAL_SECONDS="0.2", **settings) as running:
        yield running


@pytest.fixture
def body(service: Service, request: pytest.FixtureRequest) -> Body:
    """Return the body of a valid job with inputs of its own."""
    name = re.sub(r"\W+", "-", request.node.name)
    return make_inputs(service.data_dir / "inputs" / name / "x")


def inputs_of(body: Body) -> Path:
    return Path(body["inputs"]["packed_parquet"]).parent


def with_checkpoint(body: Body, directory: Path) -> Body:
    return {**body, "inputs": {**body["inputs"], "checkpoint_megatron": str(directory)}}


def planned(service: Service, body: Body) -> Body:
    answer = service.client.post("/v1/jobs:plan", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    plan: Body = answer.json()
    return plan


def errors_of(plan: Body) -> list[tuple[str, str]]:
    return [(one["code"], one["pointer"]) for one in plan["checks"] if one["severity"] == "error"]


def inspections(service: Service) -> dict[str, int]:
    """Return the number of inspections by outcome."""
    text = service.client.get("/metrics").text
    found = re.findall(r'^sft_inspections_total{.*outcome="(\w+)".*} (\d+)', text, re.MULTILINE)
    return {outcome: sum(int(n) for name, n in found if name == outcome) for outcome, _ in found}


def sandboxes(service: Service, name: str = "api") -> list[psutil.Process]:
    inside = (one for one in service.children()[name].children(recursive=True) if lives(one))
    return [one for one in inside if one.name() != "bwrap" and "worker.sandbox.child" in one.cmdline()]


def largest_memory(process: psutil.Process) -> int:
    """Return the peak of a process's resident memory in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found
    return int(found[1]) << 10


def assert_small(service: Service) -> None:
    for name in ("api", "worker"):
        assert largest_memory(service.children()[name]) < MAX_PROCESS


def settle(path: Path) -> None:
    """Wait until a file is so old that it can no longer change without another time."""
    wait_until(lambda: time.time_ns() - path.stat().st_ctime_ns > 2 * TICK_NS)


# -- bombs -----------------------------------------------------------------------------------------


def test_an_index_that_takes_gigabytes_is_a_finding(service: Service, body: Body) -> None:
    hostile = with_checkpoint(body, save_with_index(inputs_of(body) / "bomb", memo_bomb()))
    plan = planned(service, hostile)
    assert errors_of(plan) == [("hostile_checkpoint", "/inputs/checkpoint_megatron")]
    [message] = [one["message"] for one in plan["checks"] if one["code"] == "hostile_checkpoint"]
    assert "memo index" in message
    created = service.client.post("/v1/jobs", json=hostile)
    assert created.status_code == 422
    assert_small(service)
    assert planned(service, body)["ok"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", ["long", "many"])
def test_sixty_megabytes_of_json_are_a_finding(service: Service, body: Body, name: str, content: str) -> None:
    text = '{"a": "' + "x" * 60_000_000 + '"}' if content == "long" else empty_lists(20)
    (inputs_of(body) / "model" / name).write_text(text)
    assert errors_of(planned(service, body)) == [("bad_checkpoint", "/overrides/0")]
    assert_small(service)


def test_a_child_that_takes_too_long_is_killed_and_replaced(service: Service, body: Body) -> None:
    assert planned(service, body)["ok"]
    before = {one.pid for one in sandboxes(service)}
    directory = save_with_index(inputs_of(body) / "bomb", slow_bomb())
    settle(directory / "iter_0000007" / ".metadata")
    hostile = with_checkpoint(body, directory)
    plan = planned(service, hostile)
    assert errors_of(plan) == [("unreadable_file", "/inputs/checkpoint_megatron")]
    [message] = [one["message"] for one in plan["checks"] if one["code"] == "unreadable_file"]
    assert "/bomb/iter_0000007/.metadata could not be inspected: it takes more than 6 s" in message
    assert plan["config"]["checkpoint_megatron"] == hostile["inputs"]["checkpoint_megatron"]
    assert not before & {one.pid for one in sandboxes(service)}
    counted = inspections(service)
    assert errors_of(planned(service, hostile)) == errors_of(plan)  # the failure is kept for a while
    assert inspections(service)["failed"] == counted["failed"]
    assert planned(service, {**body, "name": "other", "labels": {"a": "b"}})["ok"]


def test_a_killed_child_costs_no_other_request(service: Service, body: Body) -> None:
    assert planned(service, body)["ok"]
    children = sandboxes(service)
    for child in children:
        child.kill()
    wait_until(lambda: not any(lives(child) for child in children), what="the end of the children")
    assert planned(service, {**body, "overrides": [*body["overrides"], "train.train_iters=7"]})["ok"]


def test_a_worker_meets_a_bomb_that_came_later(service: Service, body: Body) -> None:
    directory = save_with_index(inputs_of(body) / "later", index_of("__0_0.distcp"))
    with service.suspended("worker"):
        job = service.submit(with_checkpoint(body, directory))
        (directory / "iter_0000007" / ".metadata").write_bytes(memo_bomb())
    ended = service.wait_for(job["id"])
    assert (ended["state"], ended["state_reason"]["code"]) == ("FAILED", "hostile_checkpoint")
    assert_small(service)


def test_a_dataset_inspection_is_bounded_too(service: Service, body: Body) -> None:
    inputs = inputs_of(body)
    (inputs / "packed" / "metadata.json").write_text(empty_lists(15))
    asked = {"path": str(inputs / "packed"), "hf_model_path": str(inputs / "model")}
    answer = service.client.post("/v1/datasets:inspect", json=asked)
    assert (answer.status_code, answer.json()["ok"]) == (200, True), answer.text
    assert [one["code"] for one in answer.json()["problems"]] == ["unseen_packing"]
    assert_small(service)


# -- odd values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_INDEXES)
def test_an_odd_index_is_a_finding(service: Service, body: Body, name: str) -> None:
    hostile = with_checkpoint(body, save_with_index(inputs_of(body) / "odd", ODD_INDEXES[name]))
    [(code, pointer)] = errors_of(planned(service, hostile))
    assert code in ("hostile_checkpoint", "bad_checkpoint")
    assert pointer == "/inputs/checkpoint_megatron"


def test_odd_configs_of_models_are_findings(service: Service, body: Body) -> None:
    for name, text in ODD_CONFIGS.items():
        (inputs_of(body) / "model" / "config.json").write_text(text, encoding="latin-1")
        found = errors_of(planned(service, body))
        assert found, name
        assert set(found) == {("bad_checkpoint", "/overrides/0")}, name


def test_sizes_of_each_layer_are_sizes(service: Service, body: Body) -> None:
    config = {
        "intermediate_size": [8, 16],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "n_routed_experts": None,
    }
    (inputs_of(body) / "model" / "config.json").write_text(json.dumps(config))
    assert planned(service, body)["ok"]


# -- reuse -------------------------------------------------------------------------------------------


def changed_files(inputs: Path) -> Iterator[str]:
    """Change one file after the other, each so that its identity changes."""
    (inputs / "model" / "config.json").write_text('{"vocab_size": 8000}')
    yield "config.json"
    (inputs / "model" / "tokenizer.json").write_text("{}")
    yield "a file that was missing"
    shard = inputs / "packed" / "splits" / "train" / "part-00000.parquet"
    shard.with_name("part-00001.parquet").write_bytes(shard.read_bytes())
    yield "another shard"
    shard.touch()
    yield "a touched shard"
    (inputs / "packed" / "metadata.json").chmod(0o600)
    yield "a mode"


def test_an_inspection_is_repeated_only_if_a_file_has_changed(service: Service, body: Body) -> None:
    def is_reused() -> bool:
        """Whether a plan makes no new inspection. A file that was written just now may change unnoticed."""
        before = inspections(service)
        assert planned(service, body)["ok"]
        after = inspections(service)
        assert sum(after.values()) == sum(before.values()) + 1
        return after.get("reused", 0) == before.get("reused", 0) + 1

    wait_until(is_reused, what="the first reuse")
    for what in changed_files(inputs_of(body)):
        assert not is_reused(), what
        wait_until(is_reused, what=f"reuse after {what}")


def test_a_plan_without_files_needs_no_child(service: Service) -> None:
    before = inspections(service)
    planned(service, {"name": "x", "config": "nano3"})
    assert inspections(service) == before


# -- confinement -------------------------------------------------------------------------------------


def test_a_child_has_nothing_of_the_service(service: Service, body: Body) -> None:
    assert planned(service, body)["ok"]
    child = sandboxes(service)[0]
    assert not [name for name in child.environ() if name.startswith(("SFT_", "PATH", "HOME"))]
    opened = Path(f"/proc/{child.pid}/fd")
    targets = {path.name: str(path.readlink()).split(":")[0] for path in opened.iterdir()}
    assert targets == {"0": "socket", "1": "/dev/null", "2": "/dev/null"}
    for kind, limit in (
        (psutil.RLIMIT_AS, MEMORY_BYTES),
        (psutil.RLIMIT_FSIZE, 0),
        (psutil.RLIMIT_CORE, 0),
    ):
        assert child.rlimit(kind) == (limit, limit)
    networks = {Path(f"/proc/{pid}/ns/net").readlink() for pid in (child.pid, service.children()["api"].pid)}
    assert len(networks) == (2 if may_leave_network() else 1)


def test_projects_share_no_child_and_no_result(service: Service, body: Body) -> None:
    assert planned(service, body)["ok"]
    before, counted = {one.pid for one in sandboxes(service)}, inspections(service)
    made = service.client.post("/v1/keys", json={"name": "b", "role": "submitter", "project": "other"}).json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    assert service.client.post("/v1/jobs:plan", json=body, headers=headers).json()["ok"]
    assert {one.pid for one in sandboxes(service)} - before
    assert inspections(service).get("reused") == counted.get("reused")


def may_leave_network() -> bool:
    return any(
        subprocess.run(["unshare", flags, "true"], capture_output=True).returncode == 0
        for flags in ("-n", "-Un")
    )
