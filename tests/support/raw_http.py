"""HTTP on bare sockets: for what no HTTP library sends, or does not send in such pieces."""

import socket
from contextlib import suppress

import httpx2


def connect(client: httpx2.Client, data: bytes = b"") -> socket.socket:
    """Return a connection to the service of a client that has sent some data."""
    connection = socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)
    connection.sendall(data)
    return connection


def received(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    data = b""
    with suppress(ConnectionError):
        while chunk := connection.recv(1 << 16):
            data += chunk
    return data


def response(data: bytes) -> httpx2.Response:
    """Parse one response."""
    head, _, body = data.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (field.partition(": ") for field in fields)]
    return httpx2.Response(int(status.split()[1]), headers=headers, content=body)
