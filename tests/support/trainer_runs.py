"""Runs of the real trainer in its own environment, started like a backend starts them."""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("SFT_TRAINER_PYTHON", PROJECT / ".venv-trainer" / "bin" / "python"))
MISSING = f"there is no {PYTHON}: run `make setup-trainer`"


def need_trainer() -> None:
    """Skip the test if the trainer's environment is missing; in CI fail."""
    if PYTHON.exists():
        return
    if os.environ.get("CI"):
        pytest.fail(MISSING)
    pytest.skip(MISSING)


def prepared_inputs(shared: Path) -> Path:
    """Make the demo's model and packed data once for all processes of a test session."""
    shared.mkdir(parents=True, exist_ok=True)
    with locked(shared / "lock"):
        trainer_python("-m", "demo.prepare", str(shared), check=True)
    return shared


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def trainer_python(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    command = [str(PYTHON), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, **more)


@dataclass
class Run:
    """A run directory (docs/job-directory.md)."""

    directory: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        path = self.directory / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def end(self) -> dict[str, Any]:
        marker: dict[str, Any] = json.loads((self.directory / "end.json").read_text())
        return marker

    def losses(self) -> dict[int, float]:
        """Return the training loss by step."""
        return {event["step"]: event["loss"] for event in self.of_kind("step")}

    def validation_losses(self) -> dict[int, float]:
        return {event["step"]: event["loss"] for event in self.of_kind("validation")}

    def log(self) -> str:
        return (self.directory / "output.log").read_text()


LOG_LINE = re.compile(
    r"iteration +(?P<step>\d+)/ .*consumed samples: +(?P<samples>\d+) .*"
    r"elapsed time per iteration \(ms\): (?P<milliseconds>[\d.]+) .*"
    r"throughput per GPU \(TFLOP/s/GPU\): (?P<tflops>[\d.]+) .*learning rate: (?P<lr>\S+) .*"
    r"lm loss: (?P<loss>\S+) .*grad norm: (?P<norm>\S+) "
)


def check_log_lines(run: Run) -> None:
    """Check that step events match Bridge's log lines, to the precision of the lines."""
    lines = {int(found["step"]): found for found in LOG_LINE.finditer(run.log())}
    steps = run.of_kind("step")
    assert list(lines) == [event["step"] for event in steps]
    for event in steps:
        line = lines[event["step"]]
        exact = {
            "loss": f"{event['loss']:.6E}", "lr": f"{event['learning_rate']:.6E}",
            "norm": f"{event['grad_norm']:.3f}", "samples": str(event["consumed_samples"]),
        }  # fmt: skip
        assert exact == {name: line[name] for name in exact}
    # Measured by Bridge's timer and by ours around it: a busy machine may pause between the two.
    for name, logged, scale, digit in (
        ("step_time_seconds", "milliseconds", 1000, 5),
        ("tflops_per_gpu", "tflops", 1, 0.1),
    ):
        measured = [(scale * event[name], float(lines[event["step"]][logged])) for event in steps]
        apart = median(abs(ours - theirs) for ours, theirs in measured)
        assert apart <= digit + 0.02 * median(theirs for _, theirs in measured), measured


def place(directory: Path, config: dict[str, Any]) -> Run:
    """Create a run's directory with its config."""
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return Run(directory)


def start(run: Run, ranks: int = 1, **more: Any) -> subprocess.Popen[bytes]:
    """Start torchrun like the local backend. more: arguments of Popen."""
    command = [
        str(PYTHON), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks),
        "-m", "trainer", str(run.directory / "config.yaml"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with (run.directory / "output.log").open("wb") as log:
        return subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **more
        )


def train(directory: Path, config: dict[str, Any], ranks: int = 1) -> Run:
    """Run to the end, with any result."""
    run = place(directory, config)
    start(run, ranks).wait(280)
    return run
