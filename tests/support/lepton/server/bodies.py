"""What a job cannot be without. Fields that nobody knows are passed over."""

import re
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

# Source: the SDK's job_validation.py.
NAME = re.compile(r"[a-z]([a-z0-9-]{0,34}[a-z0-9])?")


class Metadata(BaseModel):
    """A job's name is in either of the two."""

    id: str | None = None
    name: str | None = None
    labels: dict[str, str] | None = None

    @model_validator(mode="after")
    def has_a_name(self) -> Self:
        name = self.id or self.name or ""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a job")
        return self


class Container(BaseModel):
    command: list[str] = Field(min_length=1)


class EnvVar(BaseModel):
    name: str
    value: str | None = None
    value_from: dict[str, str] | None = None


class Mount(BaseModel):
    source: str = Field(alias="from")
    mount_path: str
    path: str | None = None


class Spec(BaseModel):
    """What a job cannot be run without."""

    container: Container
    completions: int | None = Field(None, ge=1)
    envs: list[EnvVar] | None = None
    mounts: list[Mount] | None = None


class Body(BaseModel):
    metadata: Metadata
    spec: Spec


def check_job(body: dict[str, Any]) -> None:
    """Raises ValueError for what is no job."""
    Body.model_validate(body)
