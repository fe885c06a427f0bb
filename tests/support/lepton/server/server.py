"""The server of a workspace, in a thread of the test's process. Tests control it directly."""

import secrets
import tempfile
import threading
import time
from pathlib import Path
from shutil import rmtree
from typing import Self
from urllib.parse import parse_qsl

import uvicorn

from tests.support.lepton.server.faults import FaultMiddleware, InjectedFaults
from tests.support.lepton.server.routes import create_app
from tests.support.lepton.server.workspace import ServerWorkspace
from tests.support.waiting import wait_until


class LeptonServer:
    """A server with its own workspace at `url`; the context's end stops its jobs."""

    def __init__(self, workspace_id: str = "test-ws") -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sft-lepton-"))
        self.prefix = f"/api/v2/workspaces/{workspace_id}"
        self.token = secrets.token_hex(16)
        self.faults = InjectedFaults()
        self.workspace = ServerWorkspace(workspace_id, self.directory, self.faults)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and query of all requests."""
        self.request_times: list[float] = []
        """Times of all requests by time.monotonic()."""
        app = create_app(self.prefix, self.workspace, lambda: self.token)
        config = uvicorn.Config(
            FaultMiddleware(app, self.faults, self._note), port=0, log_level="error",
            timeout_graceful_shutdown=1, lifespan="off",
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def storage(self) -> Path:
        """`node-nfs:NAME` is the directory NAME in it."""
        return self.workspace.storage

    @property
    def url(self) -> str:
        [socket] = self._server.servers[0].sockets
        return f"http://127.0.0.1:{socket.getsockname()[1]}{self.prefix}"

    @property
    def workspace_id(self) -> str:
        return self.workspace.id

    def asked(self, method: str, path: str) -> int:
        """Return the number of these requests."""
        return sum(one[:2] == (method, path) for one in self.requests)

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, what="the Lepton server")
        return self

    def __exit__(self, *_: object) -> None:
        self.workspace.close()
        self._server.should_exit = True
        self._thread.join(10)
        rmtree(self.directory, ignore_errors=True)

    def _note(self, method: str, path: str, query: bytes) -> str:
        plain = path.removeprefix(self.prefix)
        self.request_times.append(time.monotonic())
        self.requests.append((method, plain, dict(parse_qsl(query.decode()))))
        return plain
