"""Datasets of the hub, with the client of the trainer's environment: rows, and clear errors."""

import subprocess
from pathlib import Path

import pytest

from tests.support.dataset_hub import dataset_hub
from tests.support.trainer_runs import trainer_python

pytestmark = pytest.mark.training

READ = """
import os, sys
offline = "0" if sys.argv[1] else "1"
os.environ.update(HF_HUB_OFFLINE=offline, HF_ENDPOINT=sys.argv[1], HF_HOME="home", HF_HUB_DISABLE_XET="1")
from trainer.packing.sources import BadSource, Source, records
for split in (None, "test", "other"):
    try:
        print([item.data for item in records([Source("hf://owner/name", split=split)])])
    except BadSource as error:
        print(error)
assert "torch" not in sys.modules
"""
ROW = b'{"messages": [{"role": "user", "content": "a", "name": null}], "n": %d}\n'


def read(directory: Path, endpoint: str = "") -> subprocess.CompletedProcess[str]:
    return trainer_python("-c", READ, endpoint, cwd=directory, check=True)


def test_rows_of_a_split_are_streamed(tmp_path: Path) -> None:
    with dataset_hub({"train.jsonl": ROW % 1 + ROW % 2, "test.jsonl": ROW % 3}) as endpoint:
        train, test, other = read(tmp_path, endpoint).stdout.splitlines()
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": n} for n in (1, 2, 3)]
    assert (train, test) == (str(rows[:2]), str(rows[2:]))
    assert "Bad split: other" in other


@pytest.mark.parametrize("path", ["/etc/hostname", "../../x.jsonl"])
def test_a_dataset_cannot_name_files_of_this_machine(tmp_path: Path, path: str) -> None:
    card = f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n"
    with dataset_hub({"README.md": card.encode(), "train.jsonl": ROW % 1}) as endpoint:
        for line in read(tmp_path, endpoint).stdout.splitlines():
            assert "hf://owner/name cannot be read: " in line


def test_a_dataset_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    for line in read(tmp_path).stdout.splitlines():
        assert "hf://owner/name cannot be read: " in line
        assert "It needs network access, and HF_TOKEN" in line


def test_a_local_directory_is_never_read_as_a_dataset_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "owner/name").mkdir(parents=True)
    (tmp_path / "owner/name/x.jsonl").write_text('{"messages": []}\n')
    for line in read(tmp_path).stdout.splitlines():
        assert "there is a local path owner/name" in line
