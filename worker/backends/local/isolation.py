"""Isolate runs on this machine with bubblewrap (bwrap(1)): what a run sees, and whether that is possible.

A run has its own mount, PID and IPC namespaces. It sees system directories, its interpreter and code, its
roots, its own run directory and checkpoints, and nothing else: not the rest of the data directory, not the
home directory, not the processes of the service. It keeps the network, which downloads models.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from trainer.run_layout import RunLayout
from worker.backends.local.account import Account
from worker.backends.local.interpreter import code_of
from worker.sandbox import bubblewrap
from worker.settings import PRIVATE_NAMES, Isolation

EMPTY = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm")))  # noqa: S108 - private to the run  # nosec B108
HOME = Path("/tmp")  # noqa: S108 - private to the run  # nosec B108
SYSTEM = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/sys",
    *(f"/etc/{name}" for name in (
        "alternatives", "ca-certificates", "ca-certificates.conf", "gai.conf", "group", "host.conf",
        "hostname", "hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "libibverbs.d", "localtime",
        "mime.types", "nsswitch.conf", "os-release", "passwd", "pki/ca-trust", "pki/tls/certs", "protocols",
        "resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf", "timezone",
    )),
)  # fmt: skip


class MountOption(StrEnum):
    """How a path is mounted: options of bwrap(1)."""

    READ = "--ro-bind-try"
    WRITE = "--bind-try"
    DEVICE = "--dev-bind-try"
    EMPTY = "--tmpfs"
    PROC = "--proc"
    DEVICES = "--dev"
    DIRECTORY = "--dir"


@dataclass(frozen=True)
class View:
    """What a run sees of this machine beside system and interpreter. Stored in run.json."""

    hidden: str
    """Directory of which a run sees nothing else: the data directory."""
    read: list[str] = field(default_factory=list)
    write: list[str] = field(default_factory=list)
    mode: Isolation = "auto"
    """`SFT_LOCAL_ISOLATION` at the submission."""
    run_as: str | None = None
    """Account of the run, if not the service's."""
    downloads: bool = False
    """Whether the run may download models. If not, it reads a cache that the operator has prepared."""
    hub_cache: str = ""
    """The Hugging Face cache that it downloads to."""


@dataclass(frozen=True)
class Machine:
    """What this machine has, as far as a run needs it."""

    code: frozenset[Path]
    devices: frozenset[Path]
    hub_cache: Path
    downloads: bool
    """Whether the run downloads models to this cache. If not, it only reads it."""
    real_hidden: Path
    real_write: frozenset[Path]
    """What the view names, with links resolved: a request may name either path."""
    as_root: bool

    @classmethod
    def inspect(
        cls, python: Path, environment: Mapping[str, str], view: View, account: Account | None = None
    ) -> "Machine":
        """Inspect this machine for a run with this interpreter, environment and account.

        Raises PermissionError for a root that is a link to the service's own files.
        """
        downloads = view.downloads and not _is_offline(environment)
        own = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises without an account
        home = account.home if account else own
        libraries = map(Path, map(os.path.normpath, environment.get("LD_LIBRARY_PATH", "").split(":")))
        return cls(
            code=frozenset(
                {*code_of(python, own), *code_of(Path(sys.executable), own)}
                | {path for path in libraries if path.is_absolute() and not own.is_relative_to(path)}
            ),
            devices=frozenset(Path("/dev").glob("nvidia*")),
            hub_cache=Path(view.hub_cache) if downloads else prepared_cache(environment, home),
            downloads=downloads,
            real_hidden=Path(os.path.realpath(view.hidden)),
            real_write=frozenset(_real_roots(view)),
            as_root=os.geteuid() == 0,
        )


def _real_roots(view: View) -> Iterator[Path]:
    """Yield the roots with links resolved: one may have been replaced since the submission."""
    hidden = Path(os.path.realpath(view.hidden))
    for root in view.write:
        real = Path(os.path.realpath(root))
        is_private = any(real.is_relative_to(hidden / name) for name in PRIVATE_NAMES)
        if is_private or (hidden.is_relative_to(real) and real != Path(root)):
            raise PermissionError(f"the root {root} is a link to files of the service")
        yield real


def _is_offline(environment: Mapping[str, str]) -> bool:
    """Return whether huggingface_hub works offline in this environment."""
    value = environment.get("HF_HUB_OFFLINE") or environment.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in ("1", "ON", "YES", "TRUE")


def prepared_cache(environment: Mapping[str, str], home: Path) -> Path:
    """Return where huggingface_hub keeps models. Its parent has the account's token, which stays hidden."""
    of_hub = Path(environment.get("HF_HOME") or home / ".cache/huggingface")
    return Path(environment.get("HF_HUB_CACHE") or of_hub / "hub").absolute()


def arguments(view: View, layout: RunLayout | None, machine: Machine) -> list[str]:
    """Return the command line of bwrap without the command that it runs. Pure.

    layout: None for a command that belongs to no run.
    """
    table = _table(view, layout, machine)
    # Root needs no capability to write to /proc/sys, e.g. a command into kernel.core_pattern.
    closed = [*_hidden(view, machine), Path("/proc"), *({Path("/")} - table.keys())]
    return [
        *_namespaces(machine.as_root, view.run_as),
        *(argument for path in sorted(table, key=_depth) for argument in _arguments(table[path], path)),
        *(argument for path in closed for argument in ("--remount-ro", str(path))),
        "--setenv", "HOME", str(HOME), "--setenv", "TMPDIR", str(HOME),
        # What else the client of the hub keeps is private to the run, as is its home directory.
        "--unsetenv", "HF_HOME", "--setenv", "HF_HUB_CACHE", str(machine.hub_cache),
    ]  # fmt: skip


def _depth(path: Path) -> Path:
    """Sort a directory before what it contains."""
    return Path(os.path.normpath(path))


def _namespaces(as_root: bool, run_as: str | None) -> list[str]:
    """Another account is switched to inside, and has no capability."""
    kept = ("CAP_SETUID", "CAP_SETGID") if run_as else ("CAP_DAC_OVERRIDE",)
    return bubblewrap.namespaces(as_root=as_root, kept=kept)


def _hidden(view: View, machine: Machine) -> list[Path]:
    return sorted({Path(view.hidden), machine.real_hidden})


def _table(view: View, layout: RunLayout | None, machine: Machine) -> dict[Path, MountOption]:
    """Return how each path is mounted. A later entry replaces an earlier one of the same path."""
    table = {
        **dict.fromkeys(map(Path, SYSTEM), MountOption.READ),
        **dict.fromkeys(machine.code, MountOption.READ),
        **dict.fromkeys(map(Path, view.read), MountOption.READ),
        **dict.fromkeys(EMPTY, MountOption.EMPTY),
        Path("/proc"): MountOption.PROC,
        Path("/dev"): MountOption.DEVICES,
        **dict.fromkeys(machine.devices, MountOption.DEVICE),
        **dict.fromkeys([*map(Path, view.write), *machine.real_write], MountOption.WRITE),
        machine.hub_cache: MountOption.WRITE if machine.downloads else MountOption.READ,
        **dict.fromkeys(_hidden(view, machine), MountOption.EMPTY),
        **(_own(layout) if layout else {}),
    }
    return {**dict.fromkeys(_parents(table), MountOption.DIRECTORY), **table}


def _own(layout: RunLayout) -> dict[Path, MountOption]:
    """Return how the run's own directories are mounted.

    A run that replaced a file of its supervisor could choose what it starts, or that it starts once more. A
    mount cannot be replaced: a link in place of the logs would show the logs of another job.
    """
    kept = [layout.config, layout.launch, layout.supervisor, layout.lock]
    own = dict.fromkeys([layout.directory, layout.logs, layout.job.checkpoints], MountOption.WRITE)
    return {**own, **dict.fromkeys(kept, MountOption.READ)}


def _parents(table: Mapping[Path, MountOption]) -> set[Path]:
    """Return the directories above the mounts that bwrap would make itself, for root alone."""
    parents = {parent for path in table for parent in path.parents}
    return {path for path in parents - {Path("/")} if not _is_copied(path, table)}


def _is_copied(path: Path, table: Mapping[Path, MountOption]) -> bool:
    """Return whether the mount that a path lies in shows directories of this machine."""
    around = next((parent for parent in path.parents if parent in table), None)
    return around is not None and table[around] in (MountOption.READ, MountOption.WRITE)


def _arguments(mount: MountOption, path: Path) -> list[str]:
    match mount:
        case MountOption.READ | MountOption.WRITE | MountOption.DEVICE:
            return [mount, str(path), str(path)]
        case MountOption.EMPTY:
            return ["--perms", "1777", mount, str(path)]
        case MountOption.DIRECTORY:
            return ["--perms", "0755", mount, str(path)]
    return [mount, str(path)]


def obstacle_of(view: View) -> str | None:
    """Return why a run is not isolated; None if it is."""
    return "SFT_LOCAL_ISOLATION is off" if view.mode == "off" else bubblewrap.obstacle()
