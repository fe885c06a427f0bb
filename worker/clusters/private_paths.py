"""Paths of the service itself, its code included: no root of a profile may give jobs access to them."""

import os
import sys
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from sqlalchemy.engine import make_url

from worker.clusters.profiles.base import PROJECT, Cluster
from worker.settings import PRIVATE_NAMES, PROJECT_ROOT, get_settings


def check_roots(clusters: Collection[Cluster]) -> None:
    """Raise ValueError for a root that holds files of the service or of all jobs, or lies in them."""
    for cluster in clusters:
        for other in clusters:
            _check_job_directories(cluster, other)
        if cluster.sees_files:
            _check_own_files(cluster)


def _check_job_directories(cluster: Cluster, other: Cluster) -> None:
    """Raise ValueError for a root of a profile with access to the jobs of another, or of its own."""
    if (jobs := other.job_directories.get(cluster.file_system_name)) is None:
        return
    resolve = os.path.realpath if cluster.sees_files else os.path.normpath
    for root in cluster.roots:
        ways = ((root, jobs), (jobs, root))
        if any(_may_hold(Path(resolve(outer)), Path(resolve(inner))) for outer, inner in ways):
            raise ValueError(
                f"[{cluster.name}] roots: {str(root)!r} holds remote_job_dir of [{other.name}] ({jobs}), or "
                "lies in it: requests could name the files of all jobs. Use directories beside it"
            )


def _check_own_files(cluster: Cluster) -> None:
    data_dir, private = get_settings().data_dir, list(_private())
    for root in cluster.roots:
        real = _real(root)
        if any(_may_hold(real, _real(path)) for path in (data_dir, *private)):
            raise _rejection(cluster, root, "holds files of the service itself")
        if any(_may_hold(_real(path), real) for path in private):
            raise _rejection(cluster, root, "lies in a directory of the service itself")


def _rejection(cluster: Cluster, root: Path, why: str) -> ValueError:
    hint = f"Use a directory outside of {get_settings().data_dir}, or its folder inputs"
    return ValueError(f"[{cluster.name}] roots: {str(root)!r} {why}. {hint}")


def _private() -> Iterator[Path]:
    settings = get_settings()
    yield from (settings.data_dir / name for name in PRIVATE_NAMES)
    yield from (PROJECT_ROOT / name for name in ("api", "cli", "migrations", "trainer", "worker"))
    yield from (Path(sys.prefix), settings.clusters_path)
    url = make_url(settings.sql_url)
    if url.get_backend_name() == "sqlite" and url.database:
        yield Path(url.database)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _may_hold(outer: Path, inner: Path) -> bool:
    """Whether `inner` is `outer` or lies in it. A part with a placeholder may be any name."""
    parts, others = outer.parts, inner.parts
    return len(parts) <= len(others) and all(map(_may_be_equal, parts, others))


def _may_be_equal(part: str, other: str) -> bool:
    return fnmatchcase(other, part.replace(PROJECT, "*")) or fnmatchcase(part, other.replace(PROJECT, "*"))
