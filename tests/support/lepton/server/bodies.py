"""The required fields of a job. Unknown fields are ignored."""

import re
from typing import Any, Self

from pydantic import BaseModel, Field, model_validator

# Source: the SDK's job_validation.py.
NAME = re.compile(r"[a-z]([a-z0-9-]{0,34}[a-z0-9])?")


class MetadataBody(BaseModel):
    """A job's name is in `id` or in `name`."""

    id: str | None = None
    name: str | None = None
    labels: dict[str, str] | None = None

    @model_validator(mode="after")
    def has_a_name(self) -> Self:
        name = self.id or self.name or ""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a valid job name")
        return self


class ContainerBody(BaseModel):
    command: list[str] = Field(min_length=1)


class EnvVarBody(BaseModel):
    name: str
    value: str | None = None
    value_from: dict[str, str] | None = None


class MountBody(BaseModel):
    source: str = Field(alias="from")
    mount_path: str
    path: str | None = None


class SpecBody(BaseModel):
    """The fields that are needed to run a job."""

    container: ContainerBody
    completions: int | None = Field(None, ge=1)
    envs: list[EnvVarBody] | None = None
    mounts: list[MountBody] | None = None


class JobBody(BaseModel):
    metadata: MetadataBody
    spec: SpecBody


def check_job(body: dict[str, Any]) -> None:
    """Raise ValueError if the body is not a valid job."""
    JobBody.model_validate(body)
