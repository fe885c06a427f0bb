"""Links in data, models and checkpoints: they may lead to another place in the roots, and not out of them."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from worker.sandbox import inspections

Body = dict[str, Any]

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

DATA, MODEL = ("/inputs/packed_parquet", "/path"), ("/overrides/0", "/hf_model_path")
# What is replaced by a link -> pointers of its finding in a plan and in an inspection.
PLACES = {
    "packed/splits/train/part-00000.parquet": DATA,
    "packed/splits/valid/part-00000.parquet": DATA,
    "packed/splits/valid": DATA,
    "packed/splits/train": DATA,
    "packed/splits": DATA,
    "packed/metadata.json": DATA,
    "model/tokenizer.json": MODEL,
    "model/config.json": MODEL,
    "model/model.safetensors": MODEL,
}

opened: list[str] = []


def record(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what this process opens or lists, by the path that a link leads to."""
    if watched and event in ("open", "os.scandir", "os.listdir") and isinstance(arguments[0], str | Path):
        opened.append(os.path.realpath(arguments[0]))


watched: list[Path] = []
sys.addaudithook(record)


@pytest.fixture
def elsewhere(tmp_path: Path, environment: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory outside the roots, in which nothing is opened; files are read in this process."""
    environment.setattr(inspections, "_run", lambda function, request, _seconds: function.call(request))
    watched.append(tmp_path / "elsewhere")
    opened.clear()
    yield watched[0]
    watched.clear()
    assert [path for path in opened if path.startswith(str(tmp_path / "elsewhere"))] == []
    assert opened


@pytest.fixture
def link(data_dir: Path, good: Body) -> Callable[[str, Path], Path]:
    """Return a function that moves something of the inputs, and leaves a link to it."""

    def make(place: str, to: Path) -> Path:
        path = data_dir / "inputs" / place
        to.mkdir(parents=True, exist_ok=True)
        path.rename(to / path.name)
        path.symlink_to(to / path.name)
        return path

    (data_dir / "inputs/model/tokenizer.json").write_text("{}")
    return make


def plan(client: TestClient, good: Body) -> Body:
    answer = client.post("/v1/jobs:plan", json=good)
    assert answer.status_code == 200, answer.text
    planned: Body = answer.json()
    return planned


def inspect(client: TestClient, data_dir: Path) -> Body:
    inputs = data_dir / "inputs"
    body = {"path": str(inputs / "packed"), "hf_model_path": str(inputs / "model")}
    answer = client.post("/v1/datasets:inspect", json=body)
    assert answer.status_code == 200, answer.text
    found: Body = answer.json()
    return found


def errors(findings: list[Body]) -> list[tuple[str, str]]:
    return [(one["pointer"], one["code"]) for one in findings if one["severity"] == "error"]


@pytest.mark.parametrize("place", PLACES)
def test_a_link_out_of_the_roots_is_an_error(
    client: TestClient, good: Body, data_dir: Path, link: Callable[..., Path], elsewhere: Path, place: str
) -> None:
    path = link(place, elsewhere)
    in_plan, in_inspection = PLACES[place]
    planned, found = plan(client, good), inspect(client, data_dir)
    assert (in_plan, "path_not_allowed") in errors(planned["checks"])
    assert errors(found["problems"]) == [(in_inspection, "path_not_allowed")]
    assert not planned["ok"]
    assert not found["ok"]
    (one,) = [one for one in found["problems"] if one["code"] == "path_not_allowed"]
    assert str(path) in one["message"]
    assert "roots" in one["hint"]
    rejected = client.post("/v1/jobs", json=good)
    assert rejected.status_code == 422
    assert (in_plan, "path_not_allowed") in [(e["pointer"], e["code"]) for e in rejected.json()["errors"]]


@pytest.mark.parametrize("place", PLACES)
def test_a_link_inside_the_roots_is_followed(
    client: TestClient, good: Body, data_dir: Path, link: Callable[..., Path], place: str
) -> None:
    link(place, data_dir / "inputs/common")
    assert plan(client, good)["ok"]
    assert inspect(client, data_dir)["ok"]


def test_a_pattern_does_not_lead_out(
    client: TestClient, good: Body, data_dir: Path, link: Callable[..., Path], elsewhere: Path
) -> None:
    link("packed/splits/train/part-00000.parquet", elsewhere)
    pattern = str(data_dir / "inputs/packed/splits/train/part-*.parquet")
    found = client.post("/v1/datasets:inspect", json={"path": pattern}).json()
    assert errors(found["problems"]) == [("/path", "path_not_allowed")]


def test_metadata_above_the_root_is_not_read(
    client: TestClient, good: Body, data_dir: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    splits = data_dir / "inputs/packed/splits"
    elsewhere.mkdir()
    splits.rename(elsewhere / "splits")
    (data_dir / "inputs/packed/metadata.json").rename(elsewhere / "metadata.json")
    (data_dir / "inputs").rename(tmp_path / "old")
    (data_dir / "inputs").symlink_to(elsewhere / "splits")
    found = client.post("/v1/datasets:inspect", json={"path": str(data_dir / "inputs")}).json()
    assert found["shards"] == 2
    assert found["packing"] is None


@pytest.mark.parametrize("name", ["iter_0000004", "iter_0000004/.metadata"])
def test_a_checkpoint_to_begin_from_does_not_lead_out(
    client: TestClient, good: Body, data_dir: Path, elsewhere: Path, name: str
) -> None:
    start = data_dir / "inputs/start"
    (start / "iter_0000004").mkdir(parents=True)
    (start / "iter_0000004/.metadata").write_bytes(b"")
    elsewhere.mkdir()
    (start / name).rename(elsewhere / Path(name).name)
    (start / name).symlink_to(elsewhere / Path(name).name)
    good["inputs"]["checkpoint_megatron"] = str(start)
    found = errors(plan(client, good)["checks"])
    assert ("/inputs/checkpoint_megatron", "path_not_allowed") in found
