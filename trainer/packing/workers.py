"""Processes that tokenize batches of raw records. Results come in the order of the input."""

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

from trainer.packing.algorithms import Fit
from trainer.packing.batches import Batch, RecordTokenizer, Tokenized, tokenize

BATCHES_IN_FLIGHT = 4
"""Batches per worker which wait, are worked on, or whose result waits for an earlier one."""
BYTES_IN_FLIGHT = 64 << 20


class WorkerDied(RuntimeError):
    """A process that tokenizes died. The message says how, and what to do."""


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def tokenize_all(
    batches: Iterable[Batch], tokenizer: RecordTokenizer, fit: Fit, workers: int
) -> Iterator[Tokenized]:
    """Tokenize batches in processes. Raises WorkerDied.

    The processes are forked, so that they share the memory of `tokenizer`, and before a batch is read,
    because readers may start threads, which a fork loses.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()  # a collection would write to each object, and so copy the shared memory
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _initialize, (tokenizer, fit))
    processes: list[BaseProcess] = []
    try:
        pool.submit(os.getpid).result()
        processes = list(multiprocessing.active_children())
        yield from _in_order(pool, batches, workers * BATCHES_IN_FLIGHT)
    except BrokenProcessPool:
        raise WorkerDied(_cause_of_death(processes)) from None
    finally:
        pool.shutdown(cancel_futures=True)
        gc.unfreeze()


def _in_order(pool: ProcessPoolExecutor, batches: Iterable[Batch], most: int) -> Iterator[Tokenized]:
    pending: deque[tuple[Future[Tokenized], int]] = deque()
    size = 0
    for batch in batches:
        pending.append((pool.submit(_work, batch), batch.size))
        size += batch.size
        while len(pending) >= most or size > BYTES_IN_FLIGHT:
            future, done = pending.popleft()
            size -= done
            yield future.result()
    while pending:
        yield pending.popleft()[0].result()


def _cause_of_death(processes: Iterable[BaseProcess]) -> str:
    """Say by which signal a process died. The pool ends the others by SIGTERM."""
    codes = {process.exitcode for process in processes if process.exitcode}
    code = next(iter(sorted(codes - {-signal.SIGTERM}) or codes), 0)
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return (
        f"A process that tokenizes ended {how}. SIGKILL usually means too little memory: "
        "give more, or use fewer workers. The same command resumes the packing."
    )


# -- in the processes ------------------------------------------------------------------------------


class _State:
    tokenizer: RecordTokenizer
    fit: Fit


def _initialize(tokenizer: RecordTokenizer, fit: Fit) -> None:
    _State.tokenizer, _State.fit = tokenizer, fit
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends the pool
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when its parent is killed: it would wait for work indefinitely."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(batch: Batch) -> Tokenized:
    return tokenize(batch, _State.tokenizer, _State.fit)
