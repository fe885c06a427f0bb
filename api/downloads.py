"""Files as responses: the complete file, or one range of bytes (RFC 9110, section 14)."""

import re
from collections.abc import Generator
from email.utils import formatdate
from urllib.parse import quote

from anyio import CancelScope
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from worker.backends.access.files import FileStat
from worker.errors import RangeInvalid
from worker.jobs.checkpoints import StoredFile


class Download(StreamingResponse):
    """A stream of chunks that closes its file at its end, also if the client is gone before."""

    def __init__(
        self, chunks: Generator[bytes], headers: dict[str, str], length: int, status_code: int = 200
    ) -> None:
        # Declare the length, so that a client detects an incomplete download.
        headers = {**headers, "Content-Length": str(length)}
        super().__init__(chunks, status_code, headers, media_type="application/octet-stream")
        self._close = chunks.close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):
                await run_in_threadpool(self._close)


def response(file: StoredFile, requested: str | None, if_range: str | None) -> Download:
    """Return the file, or a range of it. Raises RangeInvalid.

    requested: the header Range; ignored if `if_range` names another version of the file.
    """
    size, headers = file.stat.size, _headers(file)
    if requested is None or if_range not in (None, headers["ETag"], headers["Last-Modified"]):
        begin, end, status = 0, size, 200
    else:
        (begin, end), status = _range(requested, size), 206
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    return Download(file.chunks(begin, end), headers, end - begin, status)


def _headers(file: StoredFile) -> dict[str, str]:
    return {
        "Accept-Ranges": "bytes",
        "ETag": _etag(file.stat),
        "Last-Modified": formatdate(file.stat.modified_ns // 1_000_000_000, usegmt=True),
        "Content-Disposition": f"attachment; {_filename_parameter(file.path.name)}",
    }


def _filename_parameter(name: str) -> str:
    quoted = quote(name)
    return f'filename="{name}"' if quoted == name else f"filename*=utf-8''{quoted}"


def _etag(stat: FileStat) -> str:
    return f'"{stat.modified_ns:x}-{stat.size:x}"'


def _range(requested: str, size: int) -> tuple[int, int]:
    """Return the first byte, and the byte after the last. Raises RangeInvalid."""
    match = re.fullmatch(r"bytes=(\d{0,19})-(\d{0,19})", requested.replace(" ", ""))
    if not match or not _fits(match[1], match[2], size):
        raise RangeInvalid(
            f"The range {requested[:50]!r} is not valid for a file of {size} bytes.",
            hint="Send one range within the file, such as bytes=0-1023.",
        )
    first, last = match[1], match[2]
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _fits(first: str, last: str, size: int) -> bool:
    if not first:
        return bool(last) and int(last) > 0 and size > 0  # the last N bytes
    return int(first) < size and (not last or int(first) <= int(last))
