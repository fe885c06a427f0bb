"""Serve the API: `python -m api --host 0.0.0.0 --port 8000`."""

import argparse

import uvicorn

from api import connections
from worker.settings import get_settings

KEEP_ALIVE_SECONDS = 75
"""Longer than clients and proxies keep an idle connection: the server must not close it first."""
SHUTDOWN_SECONDS = 5


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description="Serve the API of the SFT service.")
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on.")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on.")
    address = parser.parse_args()
    uvicorn.run(
        "api.app:create_app",
        factory=True,
        host=address.host,
        port=address.port,
        backlog=connections.backlog(),
        http="api.connections:LimitedConnection",
        ws="none",
        forwarded_allow_ips=get_settings().forwarded_allow_ips,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    main()
