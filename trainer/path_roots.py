"""The directories that inputs may be read from: no link in data, model or checkpoint leads out of them.

They are set for a block of code: every read of the torch-free trainer observes them.
"""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path

VARIABLE = "SFT_ROOTS"
"""In the environment of a run: the roots of its cluster's profile, as a JSON list."""

_roots: ContextVar[tuple[Path, ...] | None] = ContextVar("roots", default=None)


class OutsideRoots(PermissionError):
    """A path leads out of the roots."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(errno.EACCES, "it leads out of the paths that the cluster allows", str(path))


@contextmanager
def limited_to(roots: Iterable[Path | str]) -> Iterator[None]:
    """Let this block read below these directories only; links in their own paths are resolved now."""
    token = _roots.set(tuple(Path(os.path.realpath(root)) for root in roots))
    try:
        yield
    finally:
        _roots.reset(token)


def variable(roots: Iterable[Path]) -> str:
    """Return the value of VARIABLE."""
    return json.dumps([str(root) for root in roots])


def limited_to_variable(environment: Mapping[str, str], also: str | None) -> AbstractContextManager[None]:
    """Let a block read below the roots of a run, and below `also`; anywhere in a run started by hand."""
    if VARIABLE not in environment:
        return nullcontext()
    return limited_to([*json.loads(environment[VARIABLE]), *([also] if also else [])])


def is_allowed(path: Path | str) -> bool:
    """Whether a path, with links resolved, may be read."""
    roots = _roots.get()
    return roots is None or any(map(Path(os.path.realpath(path)).is_relative_to, roots))


def contain(path: Path | str) -> bool:
    """Whether there are roots, and a path, with links resolved, lies in one."""
    return _roots.get() is not None and is_allowed(path)


def require(path: Path | str) -> None:
    """Raise OutsideRoots if a path may not be read."""
    if not is_allowed(path):
        raise OutsideRoots(path)


def require_open(descriptor: int, path: Path | str) -> None:
    """Raise OutsideRoots if an open file may not be read: its path may have been a link for a moment."""
    roots, real = _roots.get(), Path(f"/proc/self/fd/{descriptor}").readlink()
    if roots is not None and not any(map(real.is_relative_to, roots)):
        raise OutsideRoots(path)
