"""Async saves: a pause in the middle of a save, and a lost writer."""

import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.support.gpu_runs import (
    RESUMED,
    Config,
    GpuHardware,
    after,
    config,
    finished,
    furthest_apart,
    note,
    pause,
    rank_of,
    saving_elsewhere,
)
from tests.support.trainer_runs import Run, place, start, train
from tests.support.waiting import wait_until
from trainer.bridge.checkpoint_writer import GRACE_SECONDS

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

SAVED_AT = 5


def _config(inputs: Path, directory: Path) -> Config:
    every = {"save_interval": SAVED_AT, "async_save": True}
    return config(inputs, directory, checkpoint=every, validation={"eval_interval": 20})


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.two_gpus)])
def test_a_pause_during_an_async_save(
    inputs: Path, hardware: GpuHardware, tmp_path: Path, ranks: int
) -> None:
    values = _config(inputs, tmp_path)
    complete = finished(train(tmp_path / "complete", saving_elsewhere(values, tmp_path / "other"), ranks))
    paused = place(tmp_path / "paused", values)
    process = start(paused, ranks)
    _wait_for_save(paused, process)
    writer = _writer_of(paused, process)
    writer.suspend()
    family = psutil.Process(process.pid).children(recursive=True)
    step = _last_step(paused)
    pause(paused)
    wait_until(lambda: bool(paused.of_kind("stopping")) or process.poll() is not None, 100, "a stop")
    assert paused.of_kind("checkpoint") == []
    writer.resume()
    assert process.wait(200) == 0, paused.log()[-8000:]

    assert psutil.wait_procs(family, timeout=10)[1] == []
    at = paused.end["iteration"]
    assert (paused.end["event"], paused.end["step"]) == ("stopped", at)
    assert at >= step
    saved = [event["iteration"] for event in paused.of_kind("checkpoint")]
    assert saved == sorted({SAVED_AT, at, *range(SAVED_AT, at, SAVED_AT)})
    resumed = finished(train(tmp_path / "resumed", values, ranks))
    assert resumed.of_kind("started")[0]["start_step"] == at
    apart = furthest_apart(after(complete, at), resumed.losses())
    assert apart < RESUMED
    note(
        f"async-save-{ranks}", hardware, paused, paused_at=at, saved=saved, furthest_apart=apart,
        losses_whole=complete.losses(), losses_resumed=resumed.losses(), processes_left=0,
    )  # fmt: skip


def test_a_lost_writer_fails_the_run(inputs: Path, hardware: GpuHardware, tmp_path: Path) -> None:
    """Kill the writer like the kernel does if the host has too little memory for a save."""
    values = _config(inputs, tmp_path)
    run = place(tmp_path / "run", values)
    process = start(run)
    wait_until(lambda: bool(run.of_kind("checkpoint")) or process.poll() is not None, 200, "a checkpoint")
    family = psutil.Process(process.pid).children(recursive=True)
    _writer_of(run, process).send_signal(signal.SIGKILL)
    assert process.wait(60 + GRACE_SECONDS) != 0
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert (run.end["event"], run.end["code"]) == ("failed", "writer_lost")
    again = finished(train(tmp_path / "again", values))
    first = again.of_kind("started")[0]["start_step"]
    assert first in [event["iteration"] for event in run.of_kind("checkpoint")]
    note("async-save-lost", hardware, run, end=run.end["message"], resumed_from=first, processes_left=0)


def _wait_for_save(run: Run, process: "subprocess.Popen[bytes]") -> None:
    scheduled = "scheduled an async checkpoint save"
    wait_until(lambda: scheduled in run.log() or process.poll() is not None, 200, "a save")


def _writer_of(run: Run, process: "subprocess.Popen[bytes]") -> psutil.Process:
    """The writer: the child of the first rank that was spawned, not forked."""
    children = rank_of(run, process.pid).children(recursive=True)
    return next(child for child in children if "spawn_main" in " ".join(child.cmdline()))


def _last_step(run: Run) -> int:
    return int(run.of_kind("step")[-1]["step"])
