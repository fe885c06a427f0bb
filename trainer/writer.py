"""The process that writes a rank's checkpoints while training goes on (checkpoint.async_save)."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.process import BaseProcess

from trainer.events import EventWriter


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
    if not is_told and threading.main_thread().is_alive():
        _end(events, *_explain(ended.si_code, ended.si_status))


def _explain(code: int, status: int) -> tuple[str, str]:
    """A name of trainer.failures, and a message. SIGTERM comes to all processes of a rank that is to end."""
    how = f"with status {status}" if code == os.CLD_EXITED else f"by signal {status}"
    is_terminated = status in (signal.SIGTERM, 128 + signal.SIGTERM)
    return (
        "terminated" if is_terminated else "writer_lost",
        f"The process that writes checkpoints (checkpoint.async_save) ended {how}.",
    )


def _end(events: EventWriter, name: str, message: str) -> None:
    print(f"trainer: {message}", file=sys.stderr, flush=True)
    events.end("failed", code=name, message=message)
    for child in multiprocessing.active_children():
        child.kill()  # they would wait for this process for ever
    os._exit(1)
