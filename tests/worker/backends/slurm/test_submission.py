"""Odd job names in the output of Slurm's commands, and interrupted submissions."""

import os
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from worker.backends.slurm.command_output import SEPARATOR, WIDTHS, history_rows, queue_rows, submission_error
from worker.errors import BackendUnavailable

SUBMIT = resources.files("worker.backends.slurm") / "templates" / "submit.sh"


def queue_line(name: str) -> str:
    """Return a line padded and cut by bytes, as squeue does."""
    values = {"JobID": "7", "State": "RUNNING", "Name": name}
    padded = [values.get(key, "0").encode().ljust(width)[:width] for key, width in WIDTHS.items()]
    return b"".join(padded).decode(errors="replace")


@pytest.mark.parametrize("name", ["a\nb", "ü" * 60, "€" * 50, "a\u2028b", "a\x0bb", "x\n9"])
def test_names_of_other_jobs_do_not_hide_a_row(name: str) -> None:
    text = f"Welcome!\n{queue_line(name)}\n{queue_line('job-1.1')}\n"
    ours = [row for row in queue_rows(text) if row.name == "job-1.1"]
    assert [(row.job_id, row.state) for row in ours] == [("7", "RUNNING")]
    lines = (SEPARATOR.join(["7", one, "COMPLETED", "0:0", "None", "0"]) for one in (name, "job-1.1"))
    assert [row.state for row in history_rows("\n".join(lines)) if row.name == "job-1.1"] == ["COMPLETED"]


@pytest.mark.parametrize("code", [137, 143])
def test_an_sbatch_ended_by_a_signal_is_no_rejection(code: int) -> None:
    assert isinstance(submission_error(code, "Killed"), BackendUnavailable)


def submit(directory: Path, limit: str = "") -> int:
    """Return the exit code of submit.sh, with an sbatch that accepts every job."""
    sbatch = directory / "bin" / "sbatch"
    sbatch.parent.mkdir(exist_ok=True)
    sbatch.write_text("#!/bin/sh\necho 77\n")
    sbatch.chmod(0o755)
    path = f"{sbatch.parent}:{os.environ['PATH']}"
    command = ["bash", "-c", f'{limit}exec bash -s -- "$1" first', "sh", str(directory / "attempt")]
    return subprocess.run(
        command, input=SUBMIT.read_text(), text=True, capture_output=True, env={"PATH": path}, check=False
    ).returncode


def test_an_accepted_job_whose_id_cannot_be_written_is_unclear(tmp_path: Path) -> None:
    (tmp_path / "attempt").mkdir()
    assert submit(tmp_path, "trap '' XFSZ; ulimit -f 0; ") == 75  # as on a full disk
    assert not (tmp_path / "attempt" / "external_id").exists()


def test_an_unusable_directory_is_no_rejection(tmp_path: Path) -> None:
    assert submit(tmp_path) == 75
    (tmp_path / "attempt" / "submit.lock").mkdir(parents=True)
    assert submit(tmp_path) == 75
