"""Structured logs of the service's own processes: JSON lines on stderr."""

import contextlib
import logging
import sys
from functools import partial
from typing import TextIO

import structlog

from trainer.config.secret_patterns import redacted
from worker.settings import get_settings


def _redact(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """No line has a key, token or password: a URL or an exception of a library may contain one."""
    return {name: redacted(value) if isinstance(value, str) else value for name, value in event.items()}


SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    _redact,
]


def configure() -> None:
    """One configuration for every process, for our own lines and those of the libraries."""
    level = logging.getLevelNamesMapping().get(get_settings().log_level.upper(), logging.INFO)
    structlog.configure(
        processors=[*SHARED, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=partial(_Lossy, sys.stderr),
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    for name in ("uvicorn", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # The API writes a line for each request itself, without what is in the query.
    logging.getLogger("uvicorn.access").disabled = True
    # Progress reports of libraries (each task received and done) are noise.
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


class _Lossy(structlog.PrintLogger):
    """A line that cannot be written, as on a full disk, is lost; the work continues."""

    def __init__(self, file: TextIO, *_: object) -> None:
        super().__init__(file)

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


def logger(name: str) -> structlog.stdlib.BoundLogger:
    log: structlog.stdlib.BoundLogger = structlog.get_logger(module=name)
    return log
