"""Enqueue tasks by name, and ask the broker how many messages wait."""

import json
from base64 import b64decode

from kombu.exceptions import OperationalError
from kombu.transport.redis import Channel

from worker.broker.app import app
from worker.broker.task_names import FIRST, NEXT, TaskName
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


def waiting(queue: str, priority: int) -> set[tuple[str, ...]]:
    """Return the messages of one priority that wait in a queue: the name of the task, and its ids.

    Raises OperationalError where the broker does not answer.
    """
    name = queue if priority == FIRST else f"{queue}{Channel.sep}{priority}"
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        return {_task_of(message) for message in connection.default_channel.client.lrange(name, 0, -1)}


def _task_of(message: bytes) -> tuple[str, ...]:
    """Read a message as Celery's protocol 2 and the Redis transport write it: its body is base64."""
    parsed = json.loads(message)
    ids, _keywords, _embedded = json.loads(b64decode(parsed["body"]))
    return parsed["headers"]["task"], *ids


def ping() -> None:
    """Raises ServiceUnavailable where the broker does not answer."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=2)
            connection.default_channel.client.ping()
    except Exception as error:
        raise ServiceUnavailable("The task broker cannot be reached.", hint="Try again shortly.") from error
