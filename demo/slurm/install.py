"""Install Debian's packages of Slurm and its requirements, without starting their services."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Daemons are not on everyone's PATH.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLUGIN = "accounting_storage_mysql.so"

# A command that a cluster needs -> the package that contains it.
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
    """Something is missing and cannot be installed here; the text says what and why."""


def find(command: str) -> str | None:
    """Return the full path of a command or daemon."""
    return shutil.which(command, path=PATH)


def missing() -> dict[str, str]:
    """Return the missing commands and the package that contains each."""
    absent = {command: package for command, package in PACKAGES.items() if not find(command)}
    if not any(Path("/usr/lib").glob(f"*/slurm-wlm/{PLUGIN}")):
        absent[PLUGIN] = PLUGIN_PACKAGE
    return absent


def missing_requirement() -> str | None:
    """Return a message why no cluster can be started here; None if a cluster can be started."""
    if absent := missing():
        packages = " ".join(sorted(set(absent.values())))
        return f"Missing: {', '.join(absent)} (Debian packages {packages}). Run make setup-slurm."
    if os.geteuid() != 0:
        return "Slurm's daemons must be started as root: they run jobs as another user."
    return None


def install() -> list[str]:
    """Install the missing packages. Returns their names. Raises NotInstalled."""
    absent = missing()
    packages = sorted(set(absent.values()))
    if not packages:
        return []
    needed = f"{', '.join(absent)} missing (Debian packages {' '.join(packages)})"
    if not find("apt-get"):
        raise NotInstalled(
            f"{needed}, and there is no apt-get: install Slurm with this system's package manager."
        )
    if os.geteuid() != 0:
        raise NotInstalled(
            f"{needed}, and only root may install them: sudo apt-get install {' '.join(packages)}"
        )
    with no_service_starts():
        _apt_get("update", timeout=UPDATE_SECONDS)
        _apt_get("install", "--yes", "--no-install-recommends", *packages, timeout=INSTALL_SECONDS)
    if absent := missing():
        raise NotInstalled(f"The packages are installed, but there is no {', '.join(absent)}.")
    return packages


def _apt_get(*arguments: str, timeout: float) -> None:
    """Run apt-get. Raises NotInstalled with apt's last output."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        subprocess.run(
            ["apt-get", "-qq", *WAIT_FOR_OTHERS, *arguments],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
            timeout=timeout,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        output = "\n".join(f"{error.stdout}{error.stderr}".splitlines()[-10:])
        raise NotInstalled(f"apt-get {arguments[0]} failed:\n{output}") from None
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"apt-get {arguments[0]} did not end within {timeout:.0f} s.") from None


@contextmanager
def no_service_starts(policy: Path = Path("/usr/sbin/policy-rc.d")) -> Iterator[None]:
    """Keep packages from starting services meanwhile: invoke-rc.d(8) runs this script; 101 forbids the start.

    An existing script is moved away, and restored afterwards.
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
