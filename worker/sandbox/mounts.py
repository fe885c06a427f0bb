"""The view of a child, made from the roots of its request, and the command line of bwrap that gives it."""

import os
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from worker.sandbox import bubblewrap
from worker.sandbox.seen import identity
from worker.sandbox.view import ChildView, is_in
from worker.settings import PROJECT_ROOT, get_settings

OF_PYTHON = ("bin", "lib", "lib64", "pyvenv.cfg")


def view_of(roots: Collection[Path]) -> ChildView:
    """Return the view for a request with these roots.

    They, and the code of the child, are all that it has of the hidden directories.
    """
    data_dir = get_settings().data_dir
    places = (data_dir, data_dir / "jobs", "/run", os.path.expanduser("~/.ssh"))  # noqa: PTH111 - never raises
    hidden = {path for place in places if os.path.isdir(path := os.path.realpath(place))}  # noqa: PTH112
    needed = [*roots, *_code()]
    real = {path for one in needed if is_in(path := os.path.realpath(one), hidden)}
    known = {path: identity(path, follow=True) for path in sorted(real)}
    return ChildView(
        tuple(sorted(hidden)),
        tuple((path, found[0], found[1]) for path, found in known.items() if len(found) > 1),
        tuple(sorted(one for one in _links(needed) if is_in(one[0], hidden) and not is_in(one[0], real))),
    )


def _code() -> list[Path]:
    """Return the child's interpreter and code. A service may have been installed in its data directory.

    Of an environment only these parts: it may be a home directory that holds more.
    """
    of_python = [Path(prefix, part) for prefix in (sys.prefix, sys.base_prefix) for part in OF_PYTHON]
    return [Path(sys.executable), *of_python, PROJECT_ROOT / "worker", PROJECT_ROOT / "trainer"]


def _links(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield the links that paths lead through, and those that these lead through, each once."""
    waiting, known = list(paths), set[str]()
    while waiting:
        path = waiting.pop()
        for part in (*reversed(path.parents), path):
            name = os.path.join(os.path.realpath(part.parent), part.name)  # noqa: PTH118
            if name not in known and os.path.islink(name):  # noqa: PTH114 - Path.is_symlink may raise
                known.add(name)
                target = os.readlink(name)  # noqa: PTH115
                waiting.append(Path(name).parent / target)
                yield name, target


def arguments(view: ChildView) -> list[str]:
    """Return the options of bwrap for a view."""
    mounts = {
        **{path: ("--tmpfs", path) for path in view.hidden},
        **{path: ("--ro-bind", path, path) for path, *_ in view.shown},
        **{path: ("--symlink", target, path) for path, target in view.links},
    }
    return [
        *bubblewrap.namespaces(as_root=os.geteuid() == 0), "--unshare-net",
        "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
        *(part for path in sorted(mounts) for part in mounts[path]),
        *(part for path in ("/proc", *view.hidden) for part in ("--remount-ro", path)),
        "--chdir", str(PROJECT_ROOT),
    ]  # fmt: skip
