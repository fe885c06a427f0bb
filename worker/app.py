"""The Celery application: broker, limits and the beat's schedule.

Tasks carry ids only, keep no results, and may be lost or delivered twice: the database is the
truth, and a sweep finds what a lost message left behind.
"""

import time
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.schedules import schedule
from celery.signals import beat_init, heartbeat_sent, setup_logging, worker_init, worker_shutdown
from kombu.entity import Queue

from worker.errors import Misconfigured
from worker.settings import get_settings
from worker.telemetry import logging, metrics, tracing

# Submissions can be slow and many: a worker takes from its queues by turns, so that looks go on meanwhile.
# What the beat sends is short and comes first: behind others it would expire, and nobody would look.
SUBMISSIONS, LOOKS = "sft", "sft.looks"
LOOKING = ("tick", "poll", "take_in", "cancel", "pause", "sweep")
FIRST, NEXT = 0, 6  # priorities, as Celery's Redis transport counts them
BROKER_TIMEOUT_SECONDS = 3.0
# Messages expire by the wall clock: by so much may the clocks of two machines differ.
CLOCK_SKEW_SECONDS = 30.0

_BEGAN, _BEGAN_TICKS = datetime.now(UTC), time.monotonic()


def build() -> Celery:
    settings = get_settings()
    app = Celery("sft", broker=settings.redis_url, include=["worker.tasks"])
    app.conf.update(
        task_ignore_result=True,
        task_default_queue=SUBMISSIONS,
        task_queues=[Queue(name) for name in (SUBMISSIONS, LOOKS)],  # type: ignore[no-untyped-call]
        task_routes={f"worker.tasks.{task}": {"queue": LOOKS} for task in LOOKING},
        task_default_priority=NEXT,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_concurrency=settings.worker_threads,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        # Celery would give up, and end worker and beat, after a hundred.
        broker_connection_max_retries=None,
        broker_connection_timeout=BROKER_TIMEOUT_SECONDS,
        broker_transport_options={
            "socket_timeout": BROKER_TIMEOUT_SECONDS,
            "socket_connect_timeout": BROKER_TIMEOUT_SECONDS,
        },
        # In memory: a schedule file could be broken by a kill, and holds nothing worth keeping.
        beat_scheduler="celery.beat:Scheduler",
        beat_max_loop_interval=min(1.0, settings.poll_interval_seconds),
        beat_schedule={
            "tick": _every(settings.poll_interval_seconds, "worker.tasks.tick"),
            "sweep": _every(settings.sweep_interval_seconds, "worker.tasks.sweep"),
            "retain": _every(settings.retention_interval_seconds, "worker.tasks.retain"),
        },
    )
    return app


def _every(seconds: float, task: str) -> dict[str, Any]:
    # A tick that waited for longer than a few intervals has been overtaken by the next ones.
    options = {"expires": max(CLOCK_SKEW_SECONDS, 3 * seconds), "priority": FIRST}
    return {"task": task, "schedule": schedule(seconds, nowfun=_steady_now), "options": options}


def _steady_now() -> datetime:
    """Now, by a clock that nobody sets: put back an hour, the beat would be silent for an hour."""
    return _BEGAN + timedelta(seconds=time.monotonic() - _BEGAN_TICKS)


@setup_logging.connect
def _configure_logging(**_: Any) -> None:
    logging.configure()


@worker_init.connect
def _start_observing(**_: Any) -> None:
    try:
        tracing.start("sft-worker")
        if port := get_settings().worker_metrics_port:
            metrics.listen(port)
    except Misconfigured as error:
        raise SystemExit(f"{error.message} {error.hint}") from None  # Celery goes on after any other error


@beat_init.connect
@worker_init.connect
def _need_broker(**_: Any) -> None:
    try:
        assert get_settings().broker_url  # without one Celery would look for a RabbitMQ on this machine
    except Misconfigured as error:
        raise SystemExit(f"{error.message} {error.hint}") from None


@worker_shutdown.connect
def _stop_observing(**_: Any) -> None:
    tracing.stop()


@heartbeat_sent.connect
def _touch_heartbeat_file(**_: Any) -> None:
    if path := get_settings().heartbeat_file:
        path.touch()


# Celery warns about root because of pickled tasks; ours are JSON, and a container's user is root.
warnings.filterwarnings("ignore", category=SecurityWarning)

app = build()
