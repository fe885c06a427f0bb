"""The environment that commands and runs inherit from the service, without its keys, passwords or URLs."""

import os

INHERITED = (
    "PATH", "HOME", "USER", "LANG", "TMPDIR", "TZ", "LD_LIBRARY_PATH",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip
INHERITED_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "OPENBLAS_")


def inherited_environment() -> dict[str, str]:
    """Return the variables of this process that a command, a run or its supervisor may inherit."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in INHERITED or name.startswith(INHERITED_PREFIXES)
    }
