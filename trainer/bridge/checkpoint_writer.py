"""Watch the process that writes a rank's checkpoints during training (checkpoint.async_save)."""

import multiprocessing
import os
import sys
import threading
from multiprocessing.process import BaseProcess

from trainer.event_writer import EventWriter
from trainer.events import Failed

# A rank that fails or is terminated ends its writer first. The rank itself ends within this time:
# launchers kill ranks 30 s after a SIGTERM.
GRACE_SECONDS = 60.0


def watch(events: EventWriter) -> None:
    """End this rank if its writer is lost: megatron-core 0.19.2 would wait for the writer indefinitely.

    Call it after the writer has started and before data loaders start: torch watches those.
    """
    # The process with the queue of the writer's results is not a daemon. Without it the writer fails.
    writers = [process for process in multiprocessing.active_children() if process.daemon]
    if not writers:
        _end(events, "had ended before training began")
    for process in writers:
        threading.Thread(target=_watch, args=(process, events), daemon=True).start()


def _watch(process: BaseProcess, events: EventWriter) -> None:
    """Wait for the end of a process without collecting its status, which multiprocessing needs."""
    assert process.pid is not None
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return  # another thread has collected the status, as Bridge does after it ends the writer
    assert ended is not None  # only with WNOHANG
    if ended.si_code == os.CLD_EXITED and ended.si_status == 0:
        return
    rank = threading.main_thread()
    rank.join(GRACE_SECONDS)
    if rank.is_alive():
        how = "with status" if ended.si_code == os.CLD_EXITED else "by signal"
        _end(events, f"ended {how} {ended.si_status}")


def _end(events: EventWriter, how: str) -> None:
    message = f"The process that writes checkpoints (checkpoint.async_save) {how}."
    try:
        print(f"trainer: {message}", file=sys.stderr, flush=True)
        events.end(Failed(code="writer_lost", message=message))
    finally:
        for child in multiprocessing.active_children():
            child.kill()  # they would wait for this process indefinitely
        os._exit(1)
