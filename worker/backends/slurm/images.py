"""Container images as squash files, named by digest.

A tag can move, so a file is named by the digest: the one in the image's name, or the one that enroot
returns for the tag now. `KEY.sqsh` is a link to the newest import: a fresh import moves the link, and runs
that have started keep their file.
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
        """Whether it names an existing squash file."""
        return self.name.startswith("/")

    @property
    def uri(self) -> str:
        """The image in enroot's notation, which separates the registry by `#`."""
        registry, slash, rest = self.name.partition("/")
        has_registry = slash and ("." in registry or ":" in registry)
        return f"docker://{registry}#{rest}" if has_registry else f"docker://{self.name}"

    @property
    def key(self) -> str:
        """Name of the squash file without the suffix."""
        assert self.digest is not None
        return self.digest.replace(":", "-")

    @property
    def file(self) -> Path:
        return Path(self.name) if self.is_file else self.images / f"{self.key}.sqsh"

    @property
    def job_name(self) -> str:
        """Name of the import job, one for each squash file: all runs that need it share the import."""
        return job_name(self.file)


def job_name(file: Path) -> str:
    return f"sft-image-{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"


def log_of_import(file: Path) -> Path:
    """Return the log file of the last import of a squash file."""
    return file.with_name(f"{job_name(file)}.log")


def resolved(image: Image, transport: Transport) -> Image:
    """Return the image with its digest. Raises BackendUnavailable, or SubmissionRejected without enroot."""
    if image.digest or image.is_file:
        return image
    answer = transport.run(["enroot", "digest", image.uri], timeout=DIGEST_SECONDS)
    found = DIGEST.search(answer.out)
    if answer.code == 127:
        raise SubmissionRejected("enroot is not installed on the login node.", hint=DIGEST_HINT)
    if answer.code != 0 or not found:
        message = " ".join((answer.err or answer.out).split())[-300:]
        raise BackendUnavailable(f"The digest of {image.name} cannot be read: {message}", hint=DIGEST_HINT)
    return Image(image.name, image.images, found[0])
