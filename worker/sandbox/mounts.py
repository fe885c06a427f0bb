"""The view of a child, made from the roots of its request, and the command line of bwrap that gives it."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from worker.sandbox import bubblewrap
from worker.sandbox.seen import identity
from worker.sandbox.view import ChildView, is_in
from worker.settings import get_settings

NO_NETWORK = "--unshare-net"


def view_of(roots: Collection[Path]) -> ChildView:
    """Return the view for a request with these roots: they are all that it has of the hidden directories."""
    data_dir = get_settings().data_dir
    places = (data_dir, data_dir / "jobs", "/run", os.path.expanduser("~/.ssh"))  # noqa: PTH111 - never raises
    hidden = {path for place in places if os.path.isdir(path := os.path.realpath(place))}  # noqa: PTH112
    real = {path for root in roots if is_in(path := os.path.realpath(root), hidden)}
    known = {path: identity(path, follow=True) for path in sorted(real)}
    return ChildView(
        tuple(sorted(hidden)),
        tuple((path, found[0], found[1]) for path, found in known.items() if len(found) > 1),
        tuple(sorted({link for root in roots for link in _links(root, hidden)})),
    )


def _links(root: Path, hidden: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the links in hidden directories that the path of a root leads through."""
    for path in (*reversed(root.parents), root):
        name = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118
        if is_in(name, hidden) and os.path.islink(name):  # noqa: PTH114 - Path.is_symlink may raise
            yield name, str(Path(name).readlink())


def arguments(view: ChildView) -> list[str]:
    """Return the options of bwrap for a view."""
    mounts = {
        **{path: ("--tmpfs", path) for path in view.hidden},
        **{path: ("--ro-bind", path, path) for path, *_ in view.shown},
        **{path: ("--symlink", target, path) for path, target in view.links},
    }
    return [
        *bubblewrap.namespaces(as_root=os.geteuid() == 0), NO_NETWORK,
        "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc",
        *(part for path in sorted(mounts) for part in mounts[path]),
        *(part for path in ("/proc", *view.hidden) for part in ("--remount-ro", path)),
    ]  # fmt: skip
