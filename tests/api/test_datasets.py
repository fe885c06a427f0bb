"""Packed data over HTTP: inspected alone, in a plan, and when a job is created."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support import packed_data
from tests.support.process import forget_settings
from worker.planning import dataset_inspection

Body = dict[str, Any]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@pytest.fixture
def data(good: Body) -> Path:
    return Path(good["inputs"]["packed_parquet"])


@pytest.fixture
def inspect(client: TestClient, data: Path) -> Callable[..., Body]:
    def send(**options: Any) -> Body:
        answer = client.post("/v1/datasets:inspect", json={"path": str(data), **options})
        assert answer.status_code == 200, answer.text
        found: Body = answer.json()
        return found

    return send


def test_a_good_dataset_in_numbers(inspect: Callable[..., Body], data: Path) -> None:
    model = str(data.parent / "model")
    found = inspect(seq_length=512, hf_model_path=model, global_batch_size=8)
    assert found.pop("bytes_read") > 1000
    assert found == {
        "ok": True,
        "path": str(data),
        "cluster": "local",
        "shards": 2,
        "rows": 16,
        "tokens": 16 * 512,
        "tokens_exact": True,
        "trained_token_share": 0.5,
        "longest_pack": 512,
        "rows_read": 16,
        "packing": {
            "tokenizer": model,
            "tokenizer_sha256": None,
            "pack_size": 512,
            "vocab_size": None,
            "chat_template_sha256": None,
            "mask": None,
        },
        "splits": {name: {"shards": 1, "rows": 8, "tokens": 4096} for name in ("train", "valid")},
        "problems": [],
    }


def test_problems_point_into_the_request(inspect: Callable[..., Body], data: Path) -> None:
    columns = packed_data.packs(4)
    columns["loss_mask"][1] = [1]
    packed_data.write_shard(data / "splits/train/part-00000.parquet", columns)
    found = inspect(seq_length=1024, global_batch_size=8, hf_model_path="nvidia/other")
    assert not found["ok"]
    problems = [(one["severity"], one["code"], one["pointer"]) for one in found["problems"]]
    assert problems == [
        ("error", "bad_packed_data", "/path"),
        ("error", "too_few_rows", "/global_batch_size"),
        ("error", "seq_length_mismatch", "/seq_length"),
        ("unverified", "tokenizer_mismatch", "/hf_model_path"),
    ]
    assert "row 1: loss_mask has 1 entries for 512 input_ids" in found["problems"][0]["message"]
    assert found["problems"][2]["suggestion"] == {"field": "seq_length", "from": 1024, "to": 512}
    assert all(one["hint"] for one in found["problems"])


def test_a_missing_path_is_reported(inspect: Callable[..., Body], data: Path) -> None:
    found = inspect(path=str(data / "nowhere"))
    assert [one["code"] for one in found["problems"]] == ["missing_packed_data"]
    assert (found["ok"], found["rows"], found["longest_pack"], found["splits"]) == (False, 0, None, {})


def test_a_plan_and_a_job_report_the_same_problems_of_bad_data(
    client: TestClient, good: Body, data: Path
) -> None:
    columns = packed_data.packs(4)
    columns["seq_start_id"][3] = [0, 600]
    packed_data.write_shard(data / "splits/train/part-00000.parquet", columns)
    plan = client.post("/v1/jobs:plan", json=good)
    assert (plan.status_code, plan.json()["ok"]) == (200, False)
    planned = [one for one in plan.json()["checks"] if one["severity"] == "error"]
    assert [(one["code"], one["pointer"]) for one in planned] == [
        ("bad_packed_data", "/inputs/packed_parquet"), ("too_few_rows", "/config"),
    ]  # fmt: skip
    assert "row 3: seq_start_id 600" in planned[0]["message"]
    rejected = client.post("/v1/jobs", json=good)
    assert rejected.status_code == 422
    assert [(one["code"], one["pointer"], one["detail"]) for one in rejected.json()["errors"]] == [
        (one["code"], one["pointer"], one["message"]) for one in planned
    ]
    assert client.get("/v1/jobs").json()["items"] == []


def test_a_job_may_name_a_pattern(client: TestClient, good: Body, data: Path) -> None:
    for where in ("splits/train", "splits/train/*.parquet", "splits/train/part-00000.parquet"):
        plan = client.post("/v1/jobs:plan", json={**good, "inputs": {"packed_parquet": str(data / where)}})
        assert plan.json()["ok"], plan.text


# -- rejections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["path", "hf_model_path"])
@pytest.mark.parametrize(
    "path", ["/etc", "./here", "{root}/../admin.key", "{root}/link", "~/x", "{root}/link/*.parquet"]
)
def test_paths_stay_under_the_allowed_roots(client: TestClient, data: Path, field: str, path: str) -> None:
    root = data.parent
    (root / "link").symlink_to("/etc")
    named = path.format(root=root)
    answer = client.post("/v1/datasets:inspect", json={"path": str(data), field: named})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    [fault] = answer.json()["errors"]
    assert (fault["pointer"], fault["code"]) == (f"/{field}", "path_not_allowed")
    assert str(root) in fault["hint"]
    # The same error as for a job.
    job = {"name": "x", "config": {"hf_model_path": str(root / "model")}, "inputs": {"packed_parquet": named}}
    errors = {one["pointer"]: one for one in client.post("/v1/jobs", json=job).json()["errors"]}
    assert errors["/inputs/packed_parquet"]["detail"] == fault["detail"]


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"paht": "x"}, "/paht", "extra_forbidden"),
        ({"path": None}, "/path", "string_type"),
        ({"path": ""}, "/path", "string_too_short"),
        ({"path": "/a\0b"}, "/path", "control_character"),
        ({"full": "yes"}, "/full", "bool_type"),
        ({"seq_length": 0}, "/seq_length", "greater_than_equal"),
        ({"seq_length": "512"}, "/seq_length", "int_type"),
        ({"global_batch_size": 10**400}, "/global_batch_size", "less_than"),
        ({"cluster": "locl"}, "/cluster", "unknown_cluster"),
    ],
)
def test_bad_requests_are_pointed_at(
    client: TestClient, data: Path, change: Body, pointer: str, code: str
) -> None:
    answer = client.post("/v1/datasets:inspect", json={"path": str(data), **change})
    assert answer.status_code == 422, answer.text
    assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [(pointer, code)]
    if pointer == "/paht":
        assert "'path'" in answer.json()["errors"][0]["hint"]


# -- limits ----------------------------------------------------------------------------------------


def test_a_full_pass_ends_in_time(
    client: TestClient, inspect: Callable[..., Body], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("SFT_MAX_INSPECT_SECONDS", "0.000001")
    forget_settings()
    found = inspect(full=True)
    assert found["ok"]
    assert not found["tokens_exact"]
    assert [one["severity"] for one in found["problems"]] == ["unverified"]
    assert "Only the footers of" in found["problems"][0]["message"]


def test_full_passes_do_not_block_the_service(
    client: TestClient, inspect: Callable[..., Body], data: Path
) -> None:
    for _ in range(2):
        assert dataset_inspection.FULL_PASSES.acquire(blocking=False)
    try:
        busy = client.post("/v1/datasets:inspect", json={"path": str(data), "full": True})
        assert (busy.status_code, busy.json()["code"]) == (503, "service_unavailable")
        assert busy.headers["Retry-After"]
        assert inspect()["ok"]
    finally:
        for _ in range(2):
            dataset_inspection.FULL_PASSES.release()
    assert inspect(full=True)["ok"]


def test_names_that_are_not_text_do_not_break_the_response(inspect: Callable[..., Body], data: Path) -> None:
    Path(os.fsdecode(os.fsencode(data / "splits/train") + b"/\xff.parquet")).write_bytes(b"garbage")
    assert "\\udcff.parquet" in inspect()["problems"][0]["message"]
