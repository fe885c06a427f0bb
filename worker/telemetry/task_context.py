"""What a request hands on to the tasks that it causes, in the headers of their messages: id and trace.

For the time of a task all lines of its thread carry that, the task, and what the task is about.
"""

import inspect
from typing import Any

from celery import Task
from celery.signals import before_task_publish, task_postrun, task_prerun
from structlog import contextvars

from worker.telemetry import tracing

HEADER = "sft"


@before_task_publish.connect
def _hand_on(headers: dict[str, Any], **_: Any) -> None:
    request_id = contextvars.get_contextvars().get("request_id")
    headers[HEADER] = {"request_id": request_id, "trace": tracing.carrier()}


@task_prerun.connect
def _bind(task: Task[Any, Any], task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
    handed_on = (task.request.headers or {}).get(HEADER, {})
    about = inspect.signature(task.run).bind(*args, **kwargs).arguments
    contextvars.bind_contextvars(task=task.name, task_id=task_id, **about)
    if request_id := handed_on.get("request_id"):
        contextvars.bind_contextvars(request_id=request_id)
    task.request.span = tracing.continued(handed_on.get("trace", {}), task.name, about)
    task.request.span.__enter__()


@task_postrun.connect
def _unbind(task: Task[Any, Any], retval: Any, **_: Any) -> None:
    # After Celery's own line about a task that failed; its error comes as the returned value.
    contextvars.clear_contextvars()
    error = retval if isinstance(retval, Exception) else None
    task.request.span.__exit__(type(error) if error else None, error, None)
