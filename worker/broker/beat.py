"""The beat's scheduler, which keeps its messages from piling up while no worker takes them."""

from typing import Any

from celery.beat import ScheduleEntry, Scheduler

from worker.broker import messages
from worker.broker.task_names import FIRST, TaskName, queue_of


class BoundedScheduler(Scheduler):  # type: ignore[misc]
    """Sends a periodic task only when none of its earlier messages waits."""

    def apply_async(
        self, entry: ScheduleEntry, producer: Any = None, advance: bool = True, **kwargs: Any
    ) -> Any:
        task = TaskName(entry.task)
        if (task,) in messages.waiting(queue_of(task), FIRST):
            return None
        return super().apply_async(entry, producer=producer, advance=advance, **kwargs)
