"""Runs of the local backend, observed as the worker observes them."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.stand_in.control import section
from tests.support.waiting import wait_until
from worker.backends.interface import Handle
from worker.backends.local.backend import LocalBackend
from worker.runs.observation import Observation, Phase
from worker.runs.run import Resources, Run

Make = Callable[..., LocalBackend]


def run(
    name: str,
    mode: str = "hold",
    *,
    ranks: int = 1,
    minutes: int = 10,
    save: Path | None = None,
    project: str = "",
) -> Run:
    config = {**section(mode), "checkpoint": {"save": str(save or "/nowhere")}}
    resources = Resources(nodes=1, gpus_per_node=ranks, time_limit_minutes=minutes)
    return Run(name, 1, config, resources, project=project)


def submit(backend: LocalBackend, a_run: Run) -> str:
    return backend.submit(backend.render(a_run))


def handle(name: str) -> Handle:
    return Handle(name, name, Path("/unused"))


def observe(backend: LocalBackend, name: str) -> Observation:
    return backend.poll([handle(name)])[name]


def wait_for(backend: LocalBackend, name: str, phase: Phase) -> Observation:
    return wait_until(
        lambda: (seen := observe(backend, name)).phase is phase and seen, what=f"{name} {phase}"
    )


def events(backend: LocalBackend, job: str) -> list[str]:
    path = backend.job_directory(job) / "attempts/1/events.jsonl"
    return [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []


def interpreter(path: Path, *lines: str) -> Path:
    """Make an interpreter that is a script. It finds its run's directory in RUN."""
    path.write_text("\n".join(["#!/bin/sh", 'for config; do RUN="${config%/*}"; done', *lines]))
    path.chmod(0o755)
    return path
