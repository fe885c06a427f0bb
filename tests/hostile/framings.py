"""Requests that no HTTP library sends: odd framings, line breaks in headers, several requests in one."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from tests.hostile.target import Answer, Attack, Target
from tests.support import raw_http

HOST = b"Host: x\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
POST = b"POST /v1/jobs HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
RAW = {
    "spaces in a header": GET + b"X:" + b" " * 60_000 + b"\0\r\n\r\n",
    "length and chunks": POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "spaces in a chunk": CHUNKED + b"\r\n1;" + b" " * 64_000 + b"\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n{}",
    "huge length": POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    "length in words": POST + b"Content-Length: two\r\n\r\n{}",
    "plus length": POST + b"Content-Length: +2\r\n\r\n{}",
    "odd coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "gzip and chunks": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "huge chunk": CHUNKED + b"\r\nFFFFFFFFFFFFFFFF\r\n{}",
    "negative chunk": CHUNKED + b"\r\n-1\r\n{}\r\n",
    "chunk extension": CHUNKED + b"\r\n2;" + b"a" * 60_000 + b"\r\n{}\r\n0\r\n\r\n",
    "trailers": CHUNKED + b"\r\n2\r\n{}\r\n0\r\n" + b"X-Injected: 1\r\n" * 1000 + b"\r\n",
    "many chunks": CHUNKED + b"\r\n" + b"1\r\n[\r\n" * 20_000 + b"0\r\n\r\n",
    "half a body": POST + b"Content-Length: 100\r\n\r\n{",
    "half a chunk": CHUNKED + b"\r\n64\r\n{",
    "encoded": POST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "expectation": POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    "odd expectation": POST + b"Expect: x\r\nContent-Length: 2\r\n\r\n{}",
    "long line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "long header": GET + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers": GET + b"X: a\r\n" * 20_000 + b"\r\n",
    "folded header": GET + b"X: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET /healthz HTTP/1.1\nHost: x\n\n",
    "nul in a header": GET + b"X: a\0b\r\n\r\n",
    "nul in a path": b"GET /v1/jobs/\0 HTTP/1.1\r\n" + HOST + b"\r\n",
    "line break in an id": GET + b"X-Request-ID: a\rX-Injected: 1\r\n\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": GET + HOST + b"\r\n",
    "http 0.9": b"GET /healthz\r\n",
    "http 1.0": b"GET /healthz HTTP/1.0\r\n\r\n",
    "http 3": b"GET /healthz HTTP/3\r\n" + HOST + b"\r\n",
    "http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,
    "absolute": b"GET http://other/healthz HTTP/1.1\r\n" + HOST + b"\r\n",
    "connect": b"CONNECT other:22 HTTP/1.1\r\n" + HOST + b"\r\n",
    "trace": b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n",
    "options": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "odd method": b"M$`; / HTTP/1.1\r\n" + HOST + b"\r\n",
    "upgrade": GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "no path": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "bad percent": b"GET /v1/jobs/%zz%ff%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "dots": b"GET /../../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
    "pipelined": (GET + b"\r\n") * 500,
    "nothing": b"",
    "noise": bytes(range(256)) * 100,
}


def attacks(target: Target, share: int) -> Iterator[Attack]:
    """Yield each framing."""
    for number, (name, data) in enumerate(RAW.items()):
        if number % share == 0:
            yield Attack(name, partial(_send, data))


def _send(data: bytes, to: Target) -> Answer:
    """Send bytes and return the answer with the highest status."""
    with raw_http.connect(to.client) as connection:
        with suppress(OSError):  # the service may have closed it
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return _parsed(raw_http.received(connection))


def _parsed(data: bytes) -> Answer:
    answers = data.split(b"HTTP/1.1 ")[1:]
    status = max((int(answer[:3]) for answer in answers), default=0)
    return Answer(status, headers=data.partition(b"\r\n\r\n")[0], body=data)
