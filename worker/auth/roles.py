"""Four roles, each with the rights of those before it. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Owned(Protocol):
    """What belongs to somebody: a job."""

    @property
    def owner(self) -> str: ...

    @property
    def project(self) -> str: ...


class Role(StrEnum):
    """What a key is for."""

    VIEWER = "viewer"
    """Reads its project."""
    SUBMITTER = "submitter"
    """Makes jobs, and changes its own."""
    OPERATOR = "operator"
    """Changes all jobs of its project."""
    ADMIN = "admin"
    """Every project, and the keys."""

    def includes(self, other: "Role") -> bool:
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)


@dataclass(frozen=True)
class Tenant:
    """For whom a job is planned: its project, and whether an admin plans it."""

    project: str
    is_admin: bool = False

    def may_use(self, projects: Sequence[str] | None) -> bool:
        """Whether it may use what is open to these projects; None: to all."""
        return self.is_admin or projects is None or self.project in projects


@dataclass(frozen=True)
class Caller:
    """The caller of a request: the key's name, its project and role."""

    name: str
    project: str
    role: Role
    key_id: str = ""

    @property
    def seen_project(self) -> str | None:
        """The one project that it sees; None: all of them."""
        return None if self.role is Role.ADMIN else self.project

    @property
    def tenant(self) -> Tenant:
        """For whom its own jobs are planned."""
        return Tenant(self.project, self.role is Role.ADMIN)

    def sees(self, job: Owned) -> bool:
        return self.seen_project in (None, job.project)

    def may_change(self, job: Owned) -> bool:
        """Whether it may cancel, retry ...: an owner is known by name and project."""
        least = Role.SUBMITTER if (job.owner, job.project) == (self.name, self.project) else Role.OPERATOR
        return self.sees(job) and self.role.includes(least)
