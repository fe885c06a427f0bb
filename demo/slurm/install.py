"""Debian's packages of Slurm and of what it stands on. None of their services is started."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Daemons are not on everyone's PATH.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLUGIN = "accounting_storage_mysql.so"

# A command that a cluster needs -> the package that has it.
PACKAGES = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "slurmdbd": "slurmdbd",
    "munged": "munge",
    "mariadbd": "mariadb-server",
    "mariadb": "mariadb-server",
    "mariadb-install-db": "mariadb-server",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "runuser": "util-linux",
    "useradd": "passwd",
}
PLUGIN_PACKAGE = "slurm-wlm-mysql-plugin"

UPDATE_SECONDS = 300
INSTALL_SECONDS = 1800
WAIT_FOR_OTHERS = ("-o", "DPkg::Lock::Timeout=300")


class NotInstalled(Exception):
    """Something is missing, and cannot be had here; the text says what and why."""


def find(command: str) -> str | None:
    """The whole path of a command or daemon."""
    return shutil.which(command, path=PATH)


def missing() -> dict[str, str]:
    """What is not there -> the package that has it."""
    absent = {command: package for command, package in PACKAGES.items() if not find(command)}
    if not any(Path("/usr/lib").glob(f"*/slurm-wlm/{PLUGIN}")):
        absent[PLUGIN] = PLUGIN_PACKAGE
    return absent


def obstacle() -> str | None:
    """Why no cluster can be started here, in words; None where one can."""
    if absent := missing():
        packages = " ".join(sorted(set(absent.values())))
        return f"There is no {', '.join(absent)}; Debian has it in {packages}: make setup-slurm"
    if os.geteuid() != 0:
        return "Slurm's daemons have to be started by root here: they run jobs as another user."
    return None


def install() -> list[str]:
    """Install what is missing. Returns the packages. Raises NotInstalled."""
    absent = missing()
    packages = sorted(set(absent.values()))
    if not packages:
        return []
    wanted = f"{', '.join(absent)} missing (Debian packages {' '.join(packages)})"
    if not find("apt-get"):
        raise NotInstalled(f"{wanted}, and there is no apt-get: install Slurm by this system's own means.")
    if os.geteuid() != 0:
        raise NotInstalled(f"{wanted}, and only root may install: sudo apt-get install {' '.join(packages)}")
    with services_held_back():
        _apt_get("update", timeout=UPDATE_SECONDS)
        _apt_get("install", "--yes", "--no-install-recommends", *packages, timeout=INSTALL_SECONDS)
    if absent := missing():
        raise NotInstalled(f"The packages are installed, but there is no {', '.join(absent)}.")
    return packages


def _apt_get(*arguments: str, timeout: float) -> None:
    """Raises NotInstalled with apt's last words."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            ["apt-get", "-qq", *WAIT_FOR_OTHERS, *arguments],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
            timeout=timeout,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        words = "\n".join(f"{error.stdout}{error.stderr}".splitlines()[-10:])
        raise NotInstalled(f"apt-get {arguments[0]} failed:\n{words}") from None
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"apt-get {arguments[0]} did not end within {timeout:.0f} s.") from None


@contextmanager
def services_held_back(policy: Path = Path("/usr/sbin/policy-rc.d")) -> Iterator[None]:
    """Packages start no service meanwhile: invoke-rc.d(8) asks this script, and 101 says no.

    A script that is there already is put aside, and back.
    """
    before = policy.with_name(f"{policy.name}.before-slurm")
    if policy.exists() and not before.exists():
        policy.rename(before)
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()
        if before.exists():
            before.rename(policy)
