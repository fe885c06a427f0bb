"""What a request hands on to the tasks that it causes, in the headers of their messages: its id.

For the time of a task all lines of its thread carry that, the task, and what the task is about.
"""

import inspect
from typing import Any

from celery import Task
from celery.signals import before_task_publish, task_postrun, task_prerun
from structlog import contextvars

HEADER = "sft"


@before_task_publish.connect
def _hand_on(headers: dict[str, Any], **_: Any) -> None:
    headers[HEADER] = {"request_id": contextvars.get_contextvars().get("request_id")}


@task_prerun.connect
def _bind(task: Task[Any, Any], task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
    handed_on = (task.request.headers or {}).get(HEADER, {})
    about = inspect.signature(task.run).bind(*args, **kwargs).arguments
    contextvars.clear_contextvars()
    contextvars.bind_contextvars(task=task.name, task_id=task_id, **about)
    if request_id := handed_on.get("request_id"):
        contextvars.bind_contextvars(request_id=request_id)


@task_postrun.connect
def _unbind(**_: Any) -> None:
    # After Celery's own line about a task that failed.
    contextvars.clear_contextvars()
