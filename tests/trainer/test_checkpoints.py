"""Which checkpoints on disk are whole."""

from pathlib import Path

import pytest

from trainer.checkpoints import iterations, latest_complete, missing_of_export


def save(directory: Path, iteration: int, *, without: str | None = None) -> Path:
    path = directory / f"iter_{iteration:07d}"
    path.mkdir(parents=True)
    for name in (".metadata", "metadata.json", "run_config.yaml", "train_state.pt", "__0_0.distcp"):
        if name != without:
            (path / name).touch()
    return path


def test_an_unfinished_save_is_not_the_latest(tmp_path: Path) -> None:
    whole = save(tmp_path, 9)
    save(tmp_path, 10, without=".metadata")
    save(tmp_path, 11, without="__0_0.distcp")
    (tmp_path / "iter_0000012").touch()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("11")
    assert iterations(tmp_path) == [9]
    assert latest_complete(tmp_path) == whole


def test_a_checkpoint_may_be_named_by_its_own_directory(tmp_path: Path) -> None:
    whole = save(tmp_path, 9)
    assert latest_complete(whole) == whole


def test_nothing_is_complete_where_nothing_is(tmp_path: Path) -> None:
    assert latest_complete(tmp_path) is None
    assert latest_complete(tmp_path / "missing") is None


# -- exports ---------------------------------------------------------------------------------------


def test_an_export_has_a_config_and_all_weights() -> None:
    assert missing_of_export(["config.json", "model.safetensors", "tokenizer.json"], None) == set()
    assert missing_of_export(["model.safetensors"], None) == {"config.json"}
    assert missing_of_export(["config.json"], None) == {"model.safetensors"}
    index = b'{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
    assert missing_of_export(["config.json", "one.safetensors"], index) == {"two.safetensors"}
    assert missing_of_export(["config.json", "one.safetensors", "two.safetensors"], index) == set()


@pytest.mark.parametrize("index", [b"", b"{}", b"[]", b'{"weight_map": []}', b"[" * 100_000, b"\xff"])
def test_an_index_that_is_none_is_refused(index: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - in json's own words
        missing_of_export(["config.json"], index)
