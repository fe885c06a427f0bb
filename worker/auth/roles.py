"""Four roles, each with the rights of those before it. Pure."""

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

    def sees(self, job: Owned) -> bool:
        return self.seen_project in (None, job.project)

    def may_change(self, job: Owned) -> bool:
        """Whether it may cancel, retry ...: an owner is known by name and project."""
        least = Role.SUBMITTER if (job.owner, job.project) == (self.name, self.project) else Role.OPERATOR
        return self.sees(job) and self.role.includes(least)
