"""The FastAPI application: routes, error handlers, middleware."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from types import FrameType

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import problems
from api.audit import AuditTrail
from api.job_watcher import JobWatcher
from api.middleware import CancelledRequests, RequestContext, RequestLog
from api.rate_limits import RateLimitHeaders, RateLimits
from api.request_limits import RequestLimits
from api.routes import audit, checkpoints, clusters, datasets, health, jobs, limits, logs, metrics, presets
from api.routes import keys as key_routes
from api.slots import WAITING_TO_WRITE, WRITING, Slots
from worker.auth import keys
from worker.limits.open_requests import OpenRequests
from worker.settings import SERVICE_UMASK, get_settings
from worker.telemetry import logging, tracing

DESCRIPTION = """
Submit supervised fine-tuning (SFT) jobs of Nemotron and other models to Megatron-Bridge, follow
them, and download their checkpoints. Every error is `application/problem+json` (RFC 9457).
"""

KEY_USE_INTERVAL_SECONDS = 1.0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if threading.current_thread() is threading.main_thread():  # only it receives signals
        for end_signal in (signal.SIGTERM, signal.SIGINT):
            _close_watcher_on(end_signal, app.state.job_watcher)
    recording = asyncio.create_task(_record_key_uses())
    yield
    recording.cancel()
    await asyncio.wait([recording])
    await app.state.job_watcher.stop()
    await run_in_threadpool(keys.record_uses)
    await run_in_threadpool(tracing.stop)


async def _record_key_uses() -> None:
    while True:
        await run_in_threadpool(keys.record_uses)
        await asyncio.sleep(KEY_USE_INTERVAL_SECONDS)


def _close_watcher_on(end_signal: signal.Signals, watcher: JobWatcher) -> None:
    """Close the watcher on the signal, then call the server's handler: uvicorn waits for open streams."""
    loop, server_handler = asyncio.get_running_loop(), signal.getsignal(end_signal)

    def close_then_handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(watcher.close)
        if callable(server_handler):
            server_handler(number, frame)

    signal.signal(end_signal, close_then_handle)


def create_app() -> FastAPI:
    """Return the service as an ASGI application: `uvicorn --factory api.app:create_app`."""
    os.umask(SERVICE_UMASK)
    logging.configure()
    tracing.start("sft-api")
    app = FastAPI(
        title="SFT service",
        version=version("sft-service"),
        description=DESCRIPTION,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        telemetry={"operation_spans": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    _add_middleware(app)
    app.state.job_watcher = JobWatcher()
    app.state.slots = Slots()
    app.state.write_slots = Slots(WRITING, WAITING_TO_WRITE)
    app.state.rate_limits = RateLimits(get_settings())
    app.state.open_requests = OpenRequests(get_settings().max_open_requests)
    problems.install(app)
    for module in (jobs, logs, checkpoints, presets, clusters, datasets, key_routes, limits, audit):
        app.include_router(module.router, prefix="/v1")
    for module in (health, metrics):
        app.include_router(module.router)
    problems.describe(app)
    return app


def _add_middleware(app: FastAPI) -> None:
    # The middleware added last sees a request first.
    settings = get_settings()
    app.add_middleware(
        RequestLimits,
        max_body_bytes=settings.max_body_bytes,
        body_seconds=settings.client_timeout_seconds,
    )
    app.add_middleware(RateLimitHeaders)
    app.add_middleware(CancelledRequests)
    app.add_middleware(AuditTrail)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestContext)
