"""A small HTTP server with a test's handler, which can close connections at any point."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    """A client's request, and methods to respond. Without a response the connection is closed."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    number: int
    """Number of earlier requests."""
    handler: BaseHTTPRequestHandler

    def start(self, status: int, media_type: str, **headers: str) -> None:
        self.handler.send_response(status)
        for name, value in {"Content-Type": media_type, **headers}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()

    def write(self, data: bytes | str) -> None:
        self.handler.wfile.write(data if isinstance(data, bytes) else data.encode())
        self.handler.wfile.flush()

    def json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.start(status, "application/json", **headers)
        self.write(json.dumps(value))

    def problem(self, status: int, code: str, **headers: str) -> None:
        self.start(status, "application/problem+json", **headers)
        self.write(json.dumps({"status": status, "code": code, "detail": f"It is {code}."}))


class Loopback:
    """Handles requests with `answer`, and records them."""

    def __init__(self, answer: Callable[[Request], None]) -> None:
        self.requests: list[Request] = []
        seen, lock = self.requests, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                self.close_connection = True
                if not self.raw_requestline or not self.parse_request():
                    return
                parts = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                with lock:
                    request = Request(self.command, parts.path, query, headers, body, len(seen), self)
                    seen.append(request)
                answer(request)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                pass  # some tests let clients disconnect

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "Loopback":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
