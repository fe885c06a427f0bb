"""The context of a request in the tasks that it causes: request id and trace, in headers of their messages.

While a task runs, every log line of its thread carries these, the task, and the task's arguments.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Task
from celery.signals import before_task_publish, task_postrun, task_prerun
from structlog import contextvars

from worker.telemetry import tracing

HEADER = "sft"


def connect() -> None:
    """Connect this process to Celery's signals."""
    before_task_publish.connect(_attach)
    task_prerun.connect(_bind)
    task_postrun.connect(_unbind)


def _attach(headers: dict[str, Any], **_: Any) -> None:
    request_id = contextvars.get_contextvars().get("request_id")
    headers[HEADER] = {"request_id": request_id, "trace": tracing.carrier()}


def _bind(task: Task[Any, Any], task_id: str, args: Any, kwargs: Any, **_: Any) -> None:
    attached = (task.request.headers or {}).get(HEADER, {})
    arguments = inspect.signature(task.run).bind(*args, **kwargs).arguments
    contextvars.bind_contextvars(task=task.name, task_id=task_id, **arguments)
    if request_id := attached.get("request_id"):
        contextvars.bind_contextvars(request_id=request_id)
    task.request.span = tracing.continued(attached.get("trace", {}), task.name, arguments)
    task.request.span.__enter__()


@contextmanager
def working_for(job_id: str, *, instead_of: str) -> Iterator[None]:
    """Name the job that a task works for in its log lines, where it is not the one that was asked for."""
    # The request id is that of the request that made the other job.
    other = {"job_id": job_id, "request_id": None} if job_id != instead_of else {}
    with contextvars.bound_contextvars(**other):
        yield


def _unbind(task: Task[Any, Any], retval: Any, **_: Any) -> None:
    # After Celery's own line about a task that failed; its error comes as the returned value.
    contextvars.clear_contextvars()
    error = retval if isinstance(retval, Exception) else None
    task.request.span.__exit__(type(error) if error else None, error, None)
