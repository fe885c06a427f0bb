"""A rank whose checkpoint writer is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.trainer_runs import PROJECT
from trainer.failures import failure_name

# Like Bridge, start the writer and a manager of its results before data loaders start.
RANK = """
import os, signal, sys, time
from multiprocessing import get_context
from pathlib import Path
from trainer.bridge import checkpoint_writer as writer
from trainer.event_writer import EventWriter

def work(seconds, status):
    time.sleep(seconds)
    sys.exit(status)

class FullDisk(EventWriter):
    def write(self, *event, **fields):
        raise OSError(28, "No space left on device")

if __name__ == "__main__":
    run, case = Path(sys.argv[1]), sys.argv[2]
    manager = get_context("fork").Manager()
    seconds = 600 if case in ("killed", "own failure", "leaving", "full disk") else 0
    process = get_context("spawn").Process(target=work, args=(seconds, case == "failed"), daemon=True)
    process.start()
    if case == "early":
        process.join()
    writer.GRACE_SECONDS = 600 if case == "own failure" else 0.1
    writer.watch((FullDisk if case == "full disk" else EventWriter)(run, 3))
    if case in ("killed", "full disk"):
        os.kill(process.pid, signal.SIGKILL)
    if case == "own failure":
        process.kill()  # as Bridge does before it raises the exception again
        time.sleep(1)
    if case == "told":
        process.join()
        assert process.exitcode == 0, "its status was collected elsewhere"
    if case in ("killed", "failed", "full disk"):
        time.sleep(600)  # as Bridge waits for the writer
    print("CONTINUES")
"""


def rank(directory: Path, case: str) -> "subprocess.CompletedProcess[str]":
    """Run a rank to its end. A process that it leaves running would keep its output open and block this."""
    script = directory / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, str(script), str(directory), case]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("case", "how"),
    [("killed", "by signal 9"), ("failed", "with status 1"), ("early", "before training began")],
)
def test_a_lost_writer_ends_its_rank(tmp_path: Path, case: str, how: str) -> None:
    done = rank(tmp_path, case)
    assert done.returncode == 1
    assert how in done.stderr
    end = json.loads((tmp_path / "end.json").read_text())
    assert (end["event"], end["rank"], failure_name(end["code"])) == ("failed", 3, "writer_lost")
    assert how in end["message"]


def test_a_lost_writer_ends_its_rank_even_if_the_end_marker_cannot_be_written(tmp_path: Path) -> None:
    assert rank(tmp_path, "full disk").returncode == 1


@pytest.mark.parametrize("case", ["told", "leaving", "own failure"])
def test_a_writer_that_ends_with_its_rank_is_not_lost(tmp_path: Path, case: str) -> None:
    done = rank(tmp_path, case)
    assert (done.returncode, "CONTINUES" in done.stdout) == (0, True), done.stderr
    assert not (tmp_path / "end.json").exists()
