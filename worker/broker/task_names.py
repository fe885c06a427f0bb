"""Names of the Celery tasks and their queues. They are wire contracts: messages in a broker carry them."""

from enum import StrEnum

# Submissions can be slow and many. Workers take from their queues in turn, so that polls run meanwhile.
# What the beat sends is short and comes first: behind other messages it would expire, and nobody would poll.
SUBMISSIONS, POLLS = "sft", "sft.looks"
FIRST, NEXT = 0, 6  # priorities, as Celery's Redis transport counts them


class TaskName(StrEnum):
    """Every task, by its name in messages."""

    SUBMIT = "worker.tasks.submit"
    CANCEL = "worker.tasks.cancel"
    PAUSE = "worker.tasks.pause"
    TICK = "worker.tasks.tick"
    POLL = "worker.tasks.poll"
    INGEST = "worker.tasks.take_in"
    SWEEP = "worker.tasks.sweep"
    RETAIN = "worker.tasks.retain"


POLL_TASKS = (
    TaskName.TICK, TaskName.POLL, TaskName.INGEST, TaskName.CANCEL, TaskName.PAUSE, TaskName.SWEEP,
)  # fmt: skip


def queue_of(task: TaskName) -> str:
    return POLLS if task in POLL_TASKS else SUBMISSIONS
