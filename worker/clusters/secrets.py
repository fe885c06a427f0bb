"""Secrets of a cluster: named by jobs, read when a job is submitted, kept nowhere."""

import os
import re
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from worker.errors import BackendUnavailable

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# They would steer the shell, the loader or the launcher.
STEERING = re.compile(
    r"(LD_|PYTHON|BASH|SLURM|SBATCH|SFT_|TORCH|NCCL_|CUDA_|PYXIS|ENROOT).*"
    r"|PATH|HOME|IFS|UID|EUID|PPID|SECONDS|ENV|SHELL|SHELLOPTS|PS4|CDPATH|GLOBIGNORE|TMPDIR|RANK|WORLD_SIZE|LOCAL_RANK|MASTER_.*"
)


class SharedSecret(BaseModel):
    """Something secret that jobs may name, and who may."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    projects: list[str] | None = Field(default=None, description="Projects that may use it. Unset: all.")

    def allows(self, project: str | None) -> bool:
        """Whether jobs of a project may use it; None is an admin, who may use all."""
        return project is None or self.projects is None or project in self.projects


class Secret(SharedSecret):
    """Where the service finds a secret's value."""

    env: str | None = Field(default=None, description="Environment variable of the worker that holds it.")
    file: Path | None = Field(default=None, description="File that holds it, on the worker's machine.")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("a secret has either `env` or `file`")
        return self

    def value(self) -> str:
        """Raises BackendUnavailable where it cannot be read now."""
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
    """Whether a job may set an environment variable of this name."""
    return VARIABLE.fullmatch(name) is not None and STEERING.fullmatch(name) is None
