"""Runs under an account of their own: `run_as` of a local profile, where the service is root."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from trainer.run_layout import RunLayout
from worker.errors import Misconfigured


@dataclass(frozen=True)
class Account:
    """An account of this machine."""

    name: str
    uid: int
    gid: int
    home: Path


def account_of(name: str) -> Account:
    """Return the account with this name. Raises Misconfigured if the service cannot start runs as it."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise _wrong(name, "there is no such account", f"useradd --system {name}") from None
    if entry.pw_uid == 0:
        raise _wrong(name, "it is root", "name an account without rights")
    if os.geteuid() != 0:
        raise _wrong(name, "only root may start processes of other accounts", "start the service as root")
    return Account(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))


def _wrong(name: str, why: str, remedy: str) -> Misconfigured:
    return Misconfigured(
        f"Runs cannot be started as {name!r} (run_as): {why}.", hint=f"Remove run_as, or: {remedy}."
    )


def switched(account: Account) -> list[str]:
    """Return the command that runs another command as an account: setpriv(1) of util-linux."""
    identity = ["--reuid", str(account.uid), "--regid", str(account.gid), "--init-groups"]
    return ["setpriv", *identity, "--inh-caps=-all", "--no-new-privs", "--"]


def hand_over(layout: RunLayout, account: Account) -> None:
    """Let an account use a run's directory and checkpoints.

    The sticky bit keeps what the service wrote: the account cannot remove or replace it. The setgid bit lets
    the account read a stop file.
    """
    for path, mode in ((layout.directory, 0o3770), (layout.logs, 0o2770), (layout.config, 0o640)):
        os.chown(path, 0, account.gid)
        path.chmod(mode)
    os.chown(layout.job.checkpoints, account.uid, account.gid)


def let_search(layout: RunLayout, account: Account, data_dir: Path) -> None:
    """Let an account find a run's directory in the data directory. An isolated run needs no such right."""
    for directory in layout.directory.parents:
        if directory.is_relative_to(data_dir):
            os.chown(directory, -1, account.gid)
            directory.chmod(0o710)
