"""The Celery application without its tasks: broker, limits and the beat's schedule.

Tasks carry ids only, keep no results, and may be lost or delivered twice: the database is the
truth, and a sweep finds what a lost message left behind.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from celery.schedules import schedule
from kombu.entity import Queue

from worker.broker.task_names import FIRST, NEXT, POLL_TASKS, POLLS, SUBMISSIONS, TaskName
from worker.settings import Settings, get_settings
from worker.telemetry import task_context

BROKER_TIMEOUT_SECONDS = 3.0
# Messages expire by the wall clock: by so much may the clocks of two machines differ.
CLOCK_SKEW_SECONDS = 30.0

_BEGAN, _BEGAN_TICKS = datetime.now(UTC), time.monotonic()


def build() -> Celery:
    """Build the app from the settings of this process."""
    task_context.connect()
    settings = get_settings()
    app = Celery("sft", broker=settings.redis_url)
    app.conf.update(**_task_options(settings), **_broker_options(), **_beat_options(settings))
    return app


def _task_options(settings: Settings) -> dict[str, Any]:
    return {
        "task_ignore_result": True,
        "task_default_queue": SUBMISSIONS,
        "task_queues": [Queue(name) for name in (SUBMISSIONS, POLLS)],  # type: ignore[no-untyped-call]
        "task_routes": {task.value: {"queue": POLLS} for task in POLL_TASKS},
        "task_default_priority": NEXT,
        "task_publish_retry": False,
        "worker_prefetch_multiplier": 1,
        "worker_pool": "threads",
        "worker_concurrency": settings.worker_threads,
        "worker_hijack_root_logger": False,
    }


def _broker_options() -> dict[str, Any]:
    return {
        "broker_connection_retry_on_startup": True,
        # Celery would give up, and end worker and beat, after a hundred.
        "broker_connection_max_retries": None,
        "broker_connection_timeout": BROKER_TIMEOUT_SECONDS,
        "broker_transport_options": {
            "socket_timeout": BROKER_TIMEOUT_SECONDS,
            "socket_connect_timeout": BROKER_TIMEOUT_SECONDS,
        },
    }


def _beat_options(settings: Settings) -> dict[str, Any]:
    return {
        # In memory: a schedule file could be broken by a kill, and holds nothing worth keeping.
        "beat_scheduler": "worker.broker.beat:BoundedScheduler",
        "beat_max_loop_interval": min(1.0, settings.poll_interval_seconds),
        "beat_schedule": {
            "tick": _every(settings.poll_interval_seconds, TaskName.TICK),
            "sweep": _every(settings.sweep_interval_seconds, TaskName.SWEEP),
            "retain": _every(settings.retention_interval_seconds, TaskName.RETAIN),
        },
    }


def _every(seconds: float, task: TaskName) -> dict[str, Any]:
    # A tick that waited for longer than a few intervals has been overtaken by the next ones.
    options = {"expires": max(CLOCK_SKEW_SECONDS, 3 * seconds), "priority": FIRST}
    return {"task": task.value, "schedule": schedule(seconds, nowfun=_steady_now), "options": options}


def _steady_now() -> datetime:
    """Now, by a clock that nobody sets: put back an hour, the beat would be silent for an hour."""
    return _BEGAN + timedelta(seconds=time.monotonic() - _BEGAN_TICKS)


app = build()
