"""The trainer's code as an archive for a cluster. Deterministic: the same files give the same bytes."""

import io
import tarfile
from collections.abc import Iterable

from trainer.sources import Member


def archive(members: Iterable[Member], compression: str) -> bytes:
    """Return a tar file. compression: `gz` or `xz`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as file:  # type: ignore[call-overload]
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
