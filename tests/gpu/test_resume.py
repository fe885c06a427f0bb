"""A paused run saves, however long that takes, and resumes with the losses of an uninterrupted run."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.gpu_runs import (
    RESUMED,
    GpuHardware,
    after,
    config,
    finished,
    furthest_apart,
    note,
    pause,
    processes_of,
    rank_of,
    saving_elsewhere,
)
from tests.support.trainer_runs import Run, place, start, train
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

# torchrun kills ranks 30 s after a SIGTERM: a save must not depend on it.
SLOW_SAVE_SECONDS = 35


def test_a_paused_run_saves_and_resumes(inputs: Path, hardware: GpuHardware, tmp_path: Path) -> None:
    every = config(inputs, tmp_path, checkpoint={"save_interval": 15}, validation={"eval_interval": 20})
    complete = finished(train(tmp_path / "complete", saving_elsewhere(every, tmp_path / "other")))
    paused = _pause_at(7, place(tmp_path / "paused", every))
    step = paused.end["step"]
    assert (paused.end["event"], paused.end["reason"], paused.end["iteration"]) == ("stopped", "pause", step)
    assert 7 <= step < 15
    took = _seconds_between(paused, "stopping", "stopped")
    assert took > SLOW_SAVE_SECONDS
    assert processes_of(paused) == []

    resumed = finished(train(tmp_path / "resumed", every))
    assert resumed.of_kind("started")[0]["start_step"] == step
    apart = furthest_apart(after(complete, step), resumed.losses())
    assert apart < RESUMED

    # The newest checkpoint, of step 20, is truncated: the run resumes from that of step 15.
    os.truncate(tmp_path / "checkpoints/iter_0000020/__0_0.distcp", 1 << 20)
    again = finished(train(tmp_path / "again", every))
    assert again.of_kind("started")[0]["start_step"] == 15
    apart_again = furthest_apart(after(complete, 15), again.losses())
    assert apart_again < RESUMED
    note(
        "resume", hardware, paused, paused_at=step, pause_took_seconds=took, losses_whole=complete.losses(),
        losses_resumed=resumed.losses(), furthest_apart=apart, losses_after_a_cut_checkpoint=again.losses(),
        furthest_apart_after_a_cut_checkpoint=apart_again, processes_left=0,
    )  # fmt: skip


def _seconds_between(run: Run, first: str, last: str) -> float:
    from datetime import datetime

    begin, end = (datetime.fromisoformat(run.of_kind(kind)[0]["at"]) for kind in (first, last))
    return (end - begin).total_seconds()


def _pause_at(step: int, run: Run) -> Run:
    """Request a pause after a number of steps, and suspend the rank while it saves."""
    process = start(run)
    wait_until(lambda: len(run.losses()) >= step or process.poll() is not None, 200, "a step")
    pause(run)
    wait_until(lambda: "saving checkpoint" in run.log() or process.poll() is not None, 100, "the save")
    rank = rank_of(run, process.pid)
    rank.send_signal(signal.SIGSTOP)
    time.sleep(SLOW_SAVE_SECONDS)  # the time itself is what is tested
    rank.send_signal(signal.SIGCONT)
    process.wait(200)
    return run
