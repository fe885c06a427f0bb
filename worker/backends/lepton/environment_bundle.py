"""The trainer's code and a job's config as environment variables: they need no image of ours and no mount.

Kernel and shell: one variable, name and all, is at most 128 KiB (MAX_ARG_STRLEN), all together 2 MiB with
the usual stack (execve(2)). Kubernetes, which keeps the job, takes objects of up to 1.5 MiB.
"""

import base64
import hashlib
from functools import lru_cache

from worker.backends.trainer_bundle import archive, sources
from worker.errors import SubmissionRejected

PART_BYTES = 96 << 10
LARGEST_BYTES = 1 << 20


@lru_cache(maxsize=8)
def variables(config: str) -> dict[str, str]:
    """SFT_BUNDLE_0 and on, their number and the checksum of what they hold. Raises SubmissionRejected."""
    packed = archive([*sources(), ("config.yaml", config.encode())], "xz")
    text = base64.b64encode(packed).decode()
    if len(text) > LARGEST_BYTES:
        raise SubmissionRejected(
            f"The job's config is too large for Lepton: with the trainer's code {len(text) >> 10} KiB, "
            f"compressed, where {LARGEST_BYTES >> 10} fit.",
            hint="Leave long lists out of the config: let it name a file on a mount.",
        )
    parts = [text[begin : begin + PART_BYTES] for begin in range(0, len(text), PART_BYTES)]
    return {
        "SFT_BUNDLE_PARTS": str(len(parts)),
        "SFT_BUNDLE_SHA256": hashlib.sha256(packed).hexdigest(),
        **{f"SFT_BUNDLE_{number}": part for number, part in enumerate(parts)},
    }
