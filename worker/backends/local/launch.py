"""Start the command of a run, isolated where its run.json asks for that and this machine allows it."""

import contextlib
import os
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trainer.run_layout import RunLayout
from worker.backends.local import isolation
from worker.backends.local.account import Account, account_of, hand_over, let_search, switched
from worker.backends.local.isolation import Machine, View
from worker.sandbox import bubblewrap
from worker.settings import SERVICE_UMASK


@dataclass(frozen=True)
class Launched:
    """A started run. init: the first process of its PID namespace, whose end ends all others in it."""

    process: "subprocess.Popen[bytes]"
    init: psutil.Process | None = None

    def terminate(self) -> None:
        """Send SIGTERM to the launcher. bwrap does not pass signals on."""
        if self.init is None:
            self.process.terminate()
            return
        with contextlib.suppress(psutil.Error):
            for child in self.init.children():
                child.terminate()

    def kill(self) -> None:
        """Kill the launcher; in a PID namespace that kills all its processes."""
        with contextlib.suppress(psutil.Error):
            if self.init is not None:
                self.init.kill()
        self.process.kill()
        self.process.wait()


def launch(run: Mapping[str, Any], layout: RunLayout, environment: dict[str, str]) -> Launched:
    """Start a run's command in its directory. Raises OSError or Misconfigured if that fails.

    run: the content of run.json.
    """
    command, umask = run["command"], int(run.get("umask", "077"), 8)
    view = _view(run.get("isolation"), layout)
    if not os.access(command[0], os.X_OK):
        raise PermissionError(f"{command[0]} is not executable")
    account = account_of(view.run_as) if view.run_as else None
    obstacle = isolation.obstacle_of(view)
    if obstacle and view.mode == "required" and account is None:
        raise PermissionError(f"it cannot be isolated: {obstacle}")
    machine = Machine.inspect(Path(command[0]), environment, view, account)
    if account:
        _make([layout.job.checkpoints], account, umask)
        hand_over(layout, account)
        environment = {**environment, "HOME": str(account.home)}
        command = [*switched(account), *command]
    if not obstacle:
        _make([*map(Path, view.write), layout.job.checkpoints], account, umask)
        if machine.downloads:
            _make_cache(machine.hub_cache, account)
        full = [*isolation.arguments(view, layout, machine), "--chdir", str(layout.directory), "--", *command]
        return Launched(*bubblewrap.start(full, **_options(layout, environment, umask)))
    if account:
        if account.home.is_dir():
            _make([isolation.prepared_cache(environment, account.home)], account, umask)
        let_search(layout, account, Path(view.hidden))
    return Launched(subprocess.Popen(command, **_options(layout, environment, umask)))


def _view(stored: dict[str, Any] | None, layout: RunLayout) -> View:
    """Return what a run sees, also by a run.json of an earlier version.

    That may lack `isolation`, or in it `hub_cache` and `downloads`: such a run has a cache of its own.
    """
    if not stored:
        return View(hidden="/", mode="off")
    cache = stored.get("hub_cache") or str(layout.hub_cache)
    return View(**{"downloads": True, **stored, "hub_cache": cache})


def _make_cache(cache: Path, account: Account | None) -> None:
    """Make a project's cache. The directories that it lies in belong to the service."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    _make([cache], account, SERVICE_UMASK)


def _make(directories: list[Path], account: Account | None, umask: int) -> None:
    """Make directories that are mounted into the isolation, as the run itself would make them."""
    for directory in directories:
        for path in (*reversed(directory.parents), directory):
            with contextlib.suppress(OSError):
                path.mkdir()
                path.chmod((0o777 & ~umask) | (path.stat().st_mode & stat.S_ISGID))
                if account:
                    os.chown(path, account.uid, account.gid)


def _options(layout: RunLayout, environment: dict[str, str], umask: int) -> dict[str, Any]:
    """Return the options of Popen for a run: its own session, and nothing of the service's environment."""
    return {
        "env": environment, "cwd": layout.directory, "umask": umask, "stdin": subprocess.DEVNULL,
        "start_new_session": True,
    }  # fmt: skip
