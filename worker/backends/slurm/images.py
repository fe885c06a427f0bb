"""Container images as squash files: imported once for each digest, by a job that training waits for.

A tag can move, so a file is named by the digest: one that the image's name has, or what enroot says of the
tag now. The file `KEY.sqsh` is a link to the newest import: an import anew moves the link, and runs that
have begun keep the file that they began with.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from worker.backends.access.transport import Transport
from worker.backends.slurm.paths import Paths
from worker.errors import BackendUnavailable, SubmissionRejected

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
DIGEST_SECONDS = 60.0
DIGEST_HINT = "Name the image by its digest (IMAGE@sha256:...), or a .sqsh file that the nodes see."


@dataclass(frozen=True)
class Image:
    """A container image, as a profile names it."""

    name: str
    images: Path
    digest: str | None = None

    @classmethod
    def of(cls, name: str, paths: Paths) -> "Image":
        found = DIGEST.search(name)
        return cls(name, paths.images, found[0] if found else None)

    @property
    def is_file(self) -> bool:
        """Whether it is a squash file that is there already."""
        return self.name.startswith("/")

    @property
    def uri(self) -> str:
        """As enroot wants it: it separates the registry by `#`."""
        registry, slash, rest = self.name.partition("/")
        has_registry = slash and ("." in registry or ":" in registry)
        return f"docker://{registry}#{rest}" if has_registry else f"docker://{self.name}"

    @property
    def key(self) -> str:
        """Name of its squash file without the suffix."""
        assert self.digest is not None
        return self.digest.replace(":", "-")

    @property
    def file(self) -> Path:
        return Path(self.name) if self.is_file else self.images / f"{self.key}.sqsh"

    @property
    def job_name(self) -> str:
        """One name for each squash file: who needs it too waits for the same import."""
        return job_name(self.file)


def job_name(file: Path) -> str:
    return f"sft-image-{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"


def log_of_import(file: Path) -> Path:
    """Where the last import of a squash file has written why it failed."""
    return file.with_name(f"{job_name(file)}.log")


def resolved(image: Image, transport: Transport) -> Image:
    """The image with its digest. Raises BackendUnavailable, and SubmissionRejected without enroot."""
    if image.digest or image.is_file:
        return image
    answer = transport.run(["enroot", "digest", image.uri], timeout=DIGEST_SECONDS)
    found = DIGEST.search(answer.out)
    if answer.code == 127:
        raise SubmissionRejected("enroot is not installed on the login node.", hint=DIGEST_HINT)
    if answer.code != 0 or not found:
        said = " ".join((answer.err or answer.out).split())[-300:]
        raise BackendUnavailable(f"The digest of {image.name} cannot be had: {said}", hint=DIGEST_HINT)
    return Image(image.name, image.images, found[0])
