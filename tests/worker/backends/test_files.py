"""Whatever a run leaves under the names that the service reads, the service reads on."""

import os
from pathlib import Path

import pytest

from worker.backends import local_run
from worker.backends.files import LocalFiles
from worker.errors import BackendUnavailable

FILES = LocalFiles()


def test_a_file_is_read_from_an_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert FILES.stat(path).size == 10
    assert FILES.read(path, 3, 4) == b"3456"
    assert FILES.read(path, 10, 4) == b""


@pytest.mark.parametrize(
    "kind", ["link", "pipe", "device", "directory", "nothing", "below a file", "no possible name"]
)
def test_what_is_no_file_is_not_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "directory":
        path.mkdir()
    elif kind == "no possible name":
        path = tmp_path / ("x" * 300)
    elif kind == "below a file":
        path.touch()
        path = path / "file"
    with pytest.raises(FileNotFoundError):
        FILES.stat(path)
    with pytest.raises(FileNotFoundError):
        FILES.read(path, 0, 10)


def test_what_cannot_be_read_now_may_be_later() -> None:
    with pytest.raises(BackendUnavailable):
        FILES.read(Path("/proc/self/mem"), 0, 10)  # EIO stands for all that is not absence


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '"x"', '{"pid": "x"}', '{"reason": 7, "message": 8}']
)
def test_records_that_are_none_make_a_run_dead_and_its_end_unreadable(tmp_path: Path, text: str) -> None:
    for name in ("pid.json", "exit.json"):
        (tmp_path / name).write_text(text)
    assert local_run.was_started(tmp_path)
    assert not local_run.is_alive(tmp_path)
    record = local_run.exit_record(tmp_path)
    assert record is not None
    assert record["reason"] == "unreadable"
