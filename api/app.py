"""The application: routes, errors, and the few things that every request goes through."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import FrameType

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from api import problems
from api.middleware import RequestContext, RequestLimits, RequestLog
from api.routes import checkpoints, clusters, datasets, health, jobs, keys, logs, metrics, presets
from api.waiting import Watch
from worker.settings import get_settings
from worker.telemetry import logging, tracing

DESCRIPTION = """
Submit supervised fine-tuning (SFT) jobs of Nemotron and other models to Megatron-Bridge, follow
them, and collect their checkpoints. Every error is `application/problem+json` (RFC 9457).
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if threading.current_thread() is threading.main_thread():  # signals are its alone
        for ending in (signal.SIGTERM, signal.SIGINT):
            _close_first(app.state.watch, ending)
    yield
    await app.state.watch.stop()
    await run_in_threadpool(tracing.stop)


def _close_first(watch: Watch, ending: signal.Signals) -> None:
    """Close the watch when the signal comes, then do what was to be done: uvicorn waits for open streams."""
    loop, server_ends = asyncio.get_running_loop(), signal.getsignal(ending)

    def close_then_end(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(watch.close)
        if callable(server_ends):
            server_ends(number, frame)

    signal.signal(ending, close_then_end)


def create_app() -> FastAPI:
    """The service as an ASGI application: `uvicorn --factory api.app:create_app`."""
    logging.configure()
    tracing.start("sft-api")
    app = FastAPI(
        title="SFT service",
        version="0.1.0",
        description=DESCRIPTION,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=lambda route: route.name,
        telemetry={"operation_spans": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    # The last one added is the first to see a request.
    app.add_middleware(RequestLimits, max_body_bytes=get_settings().max_body_bytes)
    app.add_middleware(RequestLog)
    app.add_middleware(RequestContext)
    app.state.watch = Watch()
    problems.install(app)
    for module in (jobs, logs, checkpoints, presets, clusters, datasets, keys):
        app.include_router(module.router, prefix="/v1")
    for module in (health, metrics):
        app.include_router(module.router)
    problems.describe(app)
    return app
