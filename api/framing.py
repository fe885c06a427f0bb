"""Requests on a connection, as h11 reads them, without those that two servers may read in two ways.

A proxy that sees another end of a request than this server lets a client hide a second request in the first.
"""

import re

import h11
from h11 import _abnf, _readers

# h11's own expressions try each way to divide a run of spaces between two of their parts: 60 kB of spaces
# before a character that is not allowed took 7 s of CPU. These match the same, and try one way.
_readers.header_field_re = re.compile(
    rf"(?P<field_name>{_abnf.field_name}):[ \t]*+(?P<field_value>{_abnf.field_value})[ \t]*".encode()
)
_readers.chunk_header_re = re.compile(
    rf"(?P<chunk_size>{_abnf.chunk_size})(?:(?P<chunk_ext>{_abnf.chunk_ext})|[ \t]*)\r\n".encode()
)


class ClearConnection(h11.Connection):
    """The state of a connection. h11 itself rejects wrong lengths, other codings, and heads over 16 KiB."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event. Raises h11.RemoteProtocolError for a request that is not clear."""
        event = super().next_event()
        if isinstance(event, h11.Request) and not _is_clear(event):
            raise h11.RemoteProtocolError("ambiguous framing")
        return event


def _is_clear(request: h11.Request) -> bool:
    """Whether the request is HTTP/1 and says once where it ends (RFC 9112, 6.1 and 6.3)."""
    if not request.http_version.startswith(b"1."):
        return False
    names = {name for name, _value in request.headers}
    is_chunked = b"transfer-encoding" in names
    return not is_chunked or (b"content-length" not in names and request.http_version != b"1.0")
