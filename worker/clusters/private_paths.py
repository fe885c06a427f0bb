"""Paths of the service itself, its code included: no root of a profile may give jobs access to them."""

import os
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from sqlalchemy.engine import make_url

from worker.clusters.profiles.base import PROJECT, Cluster
from worker.settings import PRIVATE_NAMES, PROJECT_ROOT, get_settings


def check_roots(cluster: Cluster) -> None:
    """Raise ValueError for a root that holds the service's own files, for any project, or lies in them."""
    if not cluster.sees_files:
        return
    data_dir, private = get_settings().data_dir, list(_private())
    for root in cluster.roots:
        if any(_may_hold(root, path) for path in (data_dir, *private)):
            raise _rejection(cluster, root, "holds files of the service itself")
        if any(_may_hold(path, root) for path in private):
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


def _may_hold(outer: Path, inner: Path) -> bool:
    """Whether `inner` is `outer` or lies in it, links resolved. A part with a placeholder may be any name."""
    parts, others = Path(os.path.realpath(outer)).parts, Path(os.path.realpath(inner)).parts
    return len(parts) <= len(others) and all(map(_may_be_equal, parts, others))


def _may_be_equal(part: str, other: str) -> bool:
    return fnmatchcase(other, part.replace(PROJECT, "*")) or fnmatchcase(part, other.replace(PROJECT, "*"))
