"""Enqueue tasks by name, and ask the broker how many messages wait."""

from kombu.exceptions import OperationalError

from worker.broker.app import app
from worker.broker.task_names import NEXT, TaskName
from worker.errors import ServiceUnavailable
from worker.telemetry.logging import logger

EXPIRES_SECONDS = 300

log = logger(__name__)


def enqueue(task: TaskName, *ids: str, priority: int = NEXT) -> None:
    """Queue a task. A broker that is down costs time, not the job: the sweep enqueues it again."""
    try:
        app.send_task(task.value, ids, expires=EXPIRES_SECONDS, priority=priority, ignore_result=True)
    except OperationalError as error:
        log.warning("broker.unavailable", task=task.value, arguments=ids, error=str(error))


def count_waiting(queue: str) -> int:
    """Count the messages of a queue, whatever their priority."""
    with app.connection_for_write() as connection:
        waiting: int = connection.default_channel.queue_declare(queue).message_count
    return waiting


def count_waiting_first(queue: str) -> int:
    """Count the messages of the first priority: their list has the queue's own name."""
    with app.connection_for_write() as connection:
        waiting: int = connection.default_channel.client.llen(queue)
    return waiting


def ping() -> None:
    """Raises ServiceUnavailable where the broker does not answer."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            connection.default_channel.client.ping()
    except Exception as error:
        raise ServiceUnavailable("The task broker cannot be reached.", hint="Try again shortly.") from error
