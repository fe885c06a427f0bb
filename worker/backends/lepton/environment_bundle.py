"""The trainer's code and a job's config as environment variables, so that jobs need no own image or mount.

Limits: one variable with its name has at most 128 KiB (MAX_ARG_STRLEN), all together 2 MiB with the usual
stack (execve(2)). Kubernetes, which stores the job, accepts objects of up to 1.5 MiB.
"""

import base64
import hashlib
from functools import lru_cache

from trainer.sources import sources
from worker.backends.trainer_bundle import archive
from worker.errors import SubmissionRejected

PART_BYTES = 96 << 10
MAX_BYTES = 1 << 20


@lru_cache(maxsize=8)
def variables(config: str) -> dict[str, str]:
    """Return SFT_BUNDLE_0, 1, ..., their number and the bundle's checksum. Raises SubmissionRejected."""
    packed = archive([*sources(), ("config.yaml", config.encode())], "xz")
    text = base64.b64encode(packed).decode()
    if len(text) > MAX_BYTES:
        raise SubmissionRejected(
            f"The job's config is too large for Lepton: compressed with the trainer's code it has "
            f"{len(text) >> 10} KiB, and at most {MAX_BYTES >> 10} KiB fit.",
            hint="Move long lists from the config to a file on a mount.",
        )
    parts = [text[begin : begin + PART_BYTES] for begin in range(0, len(text), PART_BYTES)]
    return {
        "SFT_BUNDLE_PARTS": str(len(parts)),
        "SFT_BUNDLE_SHA256": hashlib.sha256(packed).hexdigest(),
        **{f"SFT_BUNDLE_{number}": part for number, part in enumerate(parts)},
    }
