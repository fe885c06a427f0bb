"""The process that writes a rank's checkpoints while training goes on (checkpoint.async_save)."""

import multiprocessing
import os
import sys
import threading
from multiprocessing.process import BaseProcess

from trainer.events import EventWriter

LOST = "writer_lost"


def watch(events: EventWriter) -> None:
    """End this rank when its writer is lost: Bridge 0.6.2 would wait at its next word for ever.

    Call it once the writer has been started, and no process that loads data: those are torch's to watch.
    """
    for process in multiprocessing.active_children():
        # The other one holds the queue of the writer's results: without it the writer fails.
        if process.daemon:
            threading.Thread(target=_watch, args=(process, events), daemon=True).start()


def _watch(process: BaseProcess, events: EventWriter) -> None:
    """Wait for the end of a process, and leave its status to whoever started it."""
    assert process.pid is not None
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return  # another thread has waited for it, as Bridge does when it has told it to end
    assert ended is not None  # only with WNOHANG
    is_told = ended.si_code == os.CLD_EXITED and ended.si_status == 0
    # Python ends its daemons when it ends itself.
    if is_told or not threading.main_thread().is_alive():
        return
    how = "with status" if ended.si_code == os.CLD_EXITED else "by signal"
    whose = "The process that writes checkpoints (checkpoint.async_save)"
    _end(events, f"{whose} ended {how} {ended.si_status}.")


def _end(events: EventWriter, message: str) -> None:
    print(f"trainer: {message}", file=sys.stderr, flush=True)
    events.end("failed", code=LOST, message=message)
    for child in multiprocessing.active_children():
        child.kill()  # they would wait for this process for ever
    os._exit(1)
