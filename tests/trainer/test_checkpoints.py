"""Complete and incomplete checkpoints on disk."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_files import LENGTH, save
from tests.support.torch_files import Calls, index
from trainer.checkpoints import (
    Damaged,
    is_complete,
    iterations,
    latest_complete,
    minimum_sizes,
    missing_export_files,
)


def test_an_unfinished_save_is_not_the_latest(tmp_path: Path) -> None:
    complete = save(tmp_path, 9)
    save(tmp_path, 10, without=".metadata")
    save(tmp_path, 11, without="__0_1.distcp")
    (tmp_path / "iter_0000012").touch()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("11")
    assert iterations(tmp_path) == [12, 11, 10, 9]
    assert latest_complete(tmp_path) == complete


@pytest.mark.parametrize(
    ("name", "size"), [("__0_1.distcp", LENGTH - 1), (".metadata", 50), (".metadata", 0)]
)
def test_a_truncated_save_is_ignored(tmp_path: Path, name: str, size: int) -> None:
    complete = save(tmp_path, 9)
    os.truncate(save(tmp_path, 10) / name, size)
    assert latest_complete(tmp_path) == complete


def test_reading_an_index_runs_no_code(tmp_path: Path) -> None:
    path = save(tmp_path, 9)
    hostile = Calls(os.mkdir, str(tmp_path / "made"))
    (path / ".metadata").write_bytes(index({"a": ("__0_0.distcp", 0, LENGTH)}, planner_data=hostile))
    assert minimum_sizes(path) == {"__0_0.distcp": LENGTH}
    assert not (tmp_path / "made").exists()


def test_an_invalid_index_is_damaged(tmp_path: Path) -> None:
    path = save(tmp_path, 9)
    names: list[Any] = ["/etc/passwd", "../x", "..", "", 5, b"x", "a\0b", "\ud800"]
    elsewhere = [index({"a": (name, 0, 1)}) for name in names]
    for text in (b"garbage", pickle.dumps(["a", "list"]), index({}), *elsewhere):
        (path / ".metadata").write_bytes(text)
        with pytest.raises(Damaged):
            minimum_sizes(path)
        assert not is_complete(path)


def test_the_directory_of_a_checkpoint_is_accepted(tmp_path: Path) -> None:
    complete = save(tmp_path, 9)
    assert latest_complete(complete) == complete


def test_an_empty_or_missing_directory_has_no_complete_checkpoint(tmp_path: Path) -> None:
    assert latest_complete(tmp_path) is None
    assert latest_complete(tmp_path / "missing") is None


# -- exports ---------------------------------------------------------------------------------------


def test_an_export_needs_a_config_and_all_weights() -> None:
    assert missing_export_files(["config.json", "model.safetensors", "tokenizer.json"], None) == set()
    assert missing_export_files(["model.safetensors"], None) == {"config.json"}
    assert missing_export_files(["config.json"], None) == {"model.safetensors"}
    index = b'{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    assert missing_export_files(["config.json", "one.safetensors"], index) == {"two.safetensors"}
    assert missing_export_files(["config.json", "one.safetensors", "two.safetensors"], index) == set()


@pytest.mark.parametrize("index", [b"", b"{}", b"[]", b'{"weight_map": []}', b"[" * 100_000, b"\xff"])
def test_an_invalid_index_of_weights_is_rejected(index: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is json's
        missing_export_files(["config.json"], index)
