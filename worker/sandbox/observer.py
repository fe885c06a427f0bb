"""See every path that Python code in this process looks at, and forbid all but reading.

pyarrow reads through Python's files. Python reports opened files and listed directories to audit hooks; the
functions of `os` that read an inode, or open a path relative to a directory, are replaced.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.sandbox.seen import Seen, identity
from worker.sandbox.view import ChildView

FORBIDDEN = (
    "socket.", "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.system", "os.chmod", "os.chown",
    "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "os.utime",
)  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

Report = Callable[[str, Seen], None]
"""Called with `open` for a file, `list` for a directory whose names are read, else with `inspect`."""


class Observer:
    """Reports the paths that are inspected between start and stop. Installed once, for good."""

    def __init__(self, report: Report, view: ChildView) -> None:
        self._report, self._view = report, view
        self._known: set[tuple[str, bool, bool]] = set()
        self._is_active = False

    def install(self) -> None:
        for name in ("stat", "lstat", "open"):
            setattr(os, name, self._observed(name, getattr(os, name)))
        sys.addaudithook(self._on_event)

    def start(self) -> None:
        self._known.clear()
        self._is_active = True

    def stop(self) -> None:
        self._is_active = False

    def _observed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        kind = "open" if name == "open" else "inspect"

        def observed(path: Any, *arguments: Any, **options: Any) -> Any:
            follow = options.get("follow_symlinks", name != "lstat")
            self._see(kind, path, follow=follow, directory=options.get("dir_fd"))
            return function(path, *arguments, **options)

        return observed

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _mode, flags = arguments
            if flags & WRITES:
                raise PermissionError("an inspection only reads")
            self._see("open", path, follow=not flags & os.O_NOFOLLOW)
        elif event in ("os.scandir", "os.listdir"):
            self._see("list", arguments[0], follow=True)
        elif event.startswith(FORBIDDEN):
            raise PermissionError(f"an inspection may not call {event}")

    def _see(self, kind: str, path: Any, *, follow: bool, directory: int | None = None) -> None:
        """Report a path before it is used. A file that is opened again is reported again."""
        if not self._is_active:
            return
        full, listed = _full(path, directory), kind == "list"
        if not full.startswith("/") or ((full, follow, listed) in self._known and kind != "open"):
            return  # relative to a directory: the replaced os.open has reported it
        if self._view.hides(full):
            return  # the service would see something else there
        self._known.add((full, follow, listed))
        self._report(kind, Seen(full, follow, listed, identity(full, follow=follow, listed=listed)))


def _full(path: Any, directory: int | None) -> str:
    """Return the path of a file, of a name in an open directory, or of a descriptor."""
    if isinstance(path, int):
        return _path_of(path)
    text = os.fsdecode(path) if path is not None else "."
    return text if directory is None else str(Path(_path_of(directory), text))


def _path_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())
