"""A Hugging Face hub with one dataset, owner/name: the routes that `datasets` asks when it streams."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

REVISION, OLDER = "a" * 40, "b" * 40
API = "/api/datasets/owner/name"


@contextmanager
def dataset_hub(files: Mapping[str, bytes], older: Mapping[str, bytes] | None = None) -> Iterator[str]:
    """Serve a dataset with these files, and yield the hub's URL (HF_ENDPOINT).

    older: its files at the commit OLDER. At REVISION, the newest, and by default it has `files`.
    """
    handler = type("Handler", (_Handler,), {"newest": files, "older": older or {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    newest: Mapping[str, bytes]
    older: Mapping[str, bytes]

    @property
    def files(self) -> Mapping[str, bytes]:
        return self.older if OLDER in self.path else self.newest

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlparse(self.path).path
        if "/resolve/" in path:
            self._send_file(path.rsplit("/", 1)[1])
        elif path.startswith(f"{API}/tree"):
            self._send_json([self._entry(name) for name in self.files])
        elif path.startswith(API):
            names = [{"rfilename": name} for name in self.files]
            sha = OLDER if OLDER in path else REVISION
            self._send_json({"id": "owner/name", "sha": sha, "siblings": names, "private": False})
        else:
            self._send(404)

    def do_POST(self) -> None:  # paths-info
        body = self.rfile.read(int(self.headers["Content-Length"]))
        is_json = "json" in self.headers["Content-Type"]
        paths = json.loads(body)["paths"] if is_json else parse_qs(body.decode())["paths"]
        self._send_json([self._entry(path) for path in paths if path in self.files])

    def _entry(self, name: str) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(self.files[name]), "oid": name.encode().hex()}

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send_file(self, name: str) -> None:
        if name not in self.files:
            self._send(404, headers={"X-Error-Code": "EntryNotFound"})
            return
        content = self.files[name]
        headers = {
            "ETag": f'"{name}"',
            "X-Repo-Commit": OLDER if OLDER in self.path else REVISION,
            "Accept-Ranges": "bytes",
        }
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content = content[int(first) : end]
        self._send(206 if asked else 200, content, headers)

    def _send(self, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass
