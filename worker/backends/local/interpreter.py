"""Where the code of a Python interpreter lies.

Interpreters are not asked: one may be a script that has to stay inside the isolation of its run.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

SHARED = tuple(map(Path, ("/", "/tmp", "/var/tmp")))  # noqa: S108 - never shown to a run  # nosec B108
MAX_CHAIN = 40


def code_of(python: Path, home: Path) -> set[Path]:
    """Return the directories that an interpreter needs; for a script its file and its directory.

    An environment names the installation that it is based on (pyvenv.cfg, PEP 405). home: of the account,
    which is never returned.
    """
    found: set[Path] = set()
    for path in _links(python):
        prefix = path.parent.parent
        if (prefix / "pyvenv.cfg").is_file():
            found |= {prefix, *_installation(_base(prefix), home)}
        else:
            found |= _installation(path.parent, home) or {path, *_allowed(path.parent, home)}
    return found


def _links(path: Path) -> Iterator[Path]:
    """Yield a path and what it links to, link by link."""
    for _ in range(MAX_CHAIN):
        yield path
        if not path.is_symlink():
            return
        path = Path(os.path.normpath(path.parent / path.readlink()))


def _base(prefix: Path) -> Path:
    """Return the directory of the interpreter that an environment was made with: `home` of pyvenv.cfg."""
    found = re.search(r"^home\s*=\s*(/.*)$", (prefix / "pyvenv.cfg").read_text(), re.MULTILINE)
    return Path(found[1].strip()) if found else prefix / "bin"


def _installation(bin_directory: Path, home: Path) -> set[Path]:
    """Return the parts of an installation of Python that has this bin/; none if it is no such directory."""
    prefix = bin_directory.parent
    if bin_directory.name != "bin" or not any((prefix / "lib").glob("python3*")):
        return set()
    return set(_allowed(prefix, home)) or {bin_directory, prefix / "lib"}


def _allowed(path: Path, home: Path) -> list[Path]:
    return [] if path in SHARED or home.is_relative_to(path) else [path]
