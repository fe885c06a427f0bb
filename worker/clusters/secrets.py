"""Secrets of a cluster: jobs name them, submission reads them, the service never stores them."""

import os
import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.errors import BackendUnavailable

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# Variables that control the shell, the loader or the launcher.
RESERVED = re.compile(
    r"(LD_|PYTHON|BASH|SLURM|SBATCH|SFT_|TORCH|NCCL_|CUDA_|PYXIS|ENROOT).*"
    r"|PATH|HOME|IFS|UID|EUID|PPID|SECONDS|ENV|SHELL|SHELLOPTS|PS4|CDPATH|GLOBIGNORE|TMPDIR|RANK|WORLD_SIZE|LOCAL_RANK|MASTER_.*"
)


class SharedSecret(BaseModel):
    """A secret that jobs may name, and the projects that may use it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    projects: list[str] | None = Field(default=None, description="Projects that may use it. Default: all.")


class Secret(SharedSecret):
    """The source of a secret's value."""

    env: str | None = Field(default=None, description="Environment variable of the worker with the value.")
    file: Path | None = Field(default=None, description="File on the worker's machine with the value.")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret needs either `env` or `file`")
        return self

    def value(self) -> str:
        """Return the value. Raises BackendUnavailable if it cannot be read now."""
        if self.env is not None:
            found = os.environ.get(self.env)
            if not found:
                raise BackendUnavailable(
                    f"The worker has no environment variable {self.env}, which holds a secret."
                )
            return found
        assert self.file is not None
        try:
            return self.file.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BackendUnavailable(
                f"The file {self.file} of a secret cannot be read: {type(error).__name__}."
            ) from error


def is_variable(name: str) -> bool:
    """Return whether a job may set an environment variable of this name."""
    return VARIABLE.fullmatch(name) is not None and RESERVED.fullmatch(name) is None
