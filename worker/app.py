"""Entry point of `celery --app worker.app`: the app with its tasks, and what its processes do first."""

import os
import warnings
from typing import Any

from celery.exceptions import SecurityWarning
from celery.signals import beat_init, heartbeat_sent, setup_logging, worker_init, worker_shutdown

from worker import tasks
from worker.backends.local import status
from worker.broker.app import app
from worker.errors import Misconfigured
from worker.settings import SERVICE_UMASK, get_settings
from worker.telemetry import logging, metrics_port, metrics_socket, tracing

log = logging.logger(__name__)

__all__ = ["app", "tasks"]  # importing the tasks registers them

# Celery warns about root because of pickled tasks; ours are JSON, and a container's user is root.
warnings.filterwarnings("ignore", category=SecurityWarning)


@setup_logging.connect
def _configure_logging(**_: Any) -> None:
    logging.configure()


@worker_init.connect
def _start_telemetry(**_: Any) -> None:
    try:
        tracing.start("sft-worker")
        if port := get_settings().worker_metrics_port:
            metrics_port.listen(port)
        if path := get_settings().worker_metrics_socket:
            metrics_socket.listen(path)
    except Misconfigured as error:
        raise SystemExit(f"{error.message} {error.hint}") from None  # Celery ignores any other error


@beat_init.connect
@worker_init.connect
def _keep_files_private(**_: Any) -> None:
    os.umask(SERVICE_UMASK)


@beat_init.connect
@worker_init.connect
def _need_broker(**_: Any) -> None:
    try:
        assert get_settings().broker_url  # without one Celery would look for a RabbitMQ on this machine
    except Misconfigured as error:
        raise SystemExit(f"{error.message} {error.hint}") from None


@worker_init.connect
def _warn(**_: Any) -> None:
    for warning in status.warnings():
        log.warning("worker.warning", message=warning)


@worker_shutdown.connect
def _stop_telemetry(**_: Any) -> None:
    tracing.stop()


@heartbeat_sent.connect
def _touch_heartbeat_file(**_: Any) -> None:
    if path := get_settings().heartbeat_file:
        path.touch()
