"""Start the command of a run, isolated where its run.json asks for that and this machine allows it."""

import contextlib
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from trainer.run_layout import RunLayout
from worker.backends.local import isolation
from worker.backends.local.isolation import Machine, View

NOT_ISOLATED = "The run was not started: it cannot be isolated ({})."


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
    """Start a run's command in its directory. Raises OSError if that fails.

    run: the content of run.json; one that was written before this version has no `isolation`.
    """
    command, view, umask = run["command"], _view(run), int(run.get("umask", "077"), 8)
    if not os.access(command[0], os.X_OK):
        raise PermissionError(f"{command[0]} is not executable")
    if view is None:
        return Launched(_start(command, layout, environment, umask))
    machine = Machine.inspect(Path(command[0]), environment, Path(view.hidden))
    for directory in (*map(Path, view.write), layout.job.checkpoints, machine.hub_cache):
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
    full = [*isolation.arguments(view, layout, machine), "--", *command]
    return _start_isolated(full, layout, environment, umask)


def _view(run: Mapping[str, Any]) -> View | None:
    """Return what the run may see; None if it is not isolated. Raises OSError if it has to be and cannot."""
    if not run.get("isolation"):
        return None
    view = View(**run["isolation"])
    obstacle = isolation.obstacle()
    if obstacle and view.required:
        raise PermissionError(NOT_ISOLATED.format(obstacle))
    return None if obstacle else view


def _start_isolated(
    arguments: list[str], layout: RunLayout, environment: dict[str, str], umask: int
) -> Launched:
    bwrap = isolation.program()
    assert bwrap is not None
    told, telling = os.pipe()
    with os.fdopen(told) as info:
        try:
            command = [bwrap, "--info-fd", str(telling), *arguments]
            process = _start(command, layout, environment, umask, telling)
        finally:
            os.close(telling)
        return Launched(process, _init(info.read()))


def _init(info: str) -> psutil.Process | None:
    """Return the process that bwrap reports; None if bwrap failed, which its exit code tells."""
    try:
        return psutil.Process(json.loads(info)["child-pid"])
    except (ValueError, psutil.Error):
        return None


def _start(
    command: list[str], layout: RunLayout, environment: dict[str, str], umask: int, *passed: int
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command, env=environment, cwd=layout.directory, pass_fds=passed, umask=umask,
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
