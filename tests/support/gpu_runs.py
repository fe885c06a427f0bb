"""Shared parts of the GPU tests: configs, log lines, evidence files."""

import re
import statistics
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.support.trainer_runs import PROJECT, Run

# A resumed run repeats the same arithmetic, but attention's backward pass sums in any order.
RESUMED = 2e-3

EVIDENCE = PROJECT / "docs" / "evidence"

Config = dict[str, Any]


@dataclass(frozen=True)
class GpuHardware:
    """What the tests run on, for the evidence."""

    gpus: int
    name: str
    memory_gib: float
    versions: dict[str, str]


def config(inputs: Path, directory: Path, base: str = "small", **sections: Any) -> Config:
    """Return the config of 20 steps on 8 packs of 4,096 tokens each, with a save at the end."""
    values: Config = {
        "hf_model_path": str(inputs / "models" / base),
        "seq_length": 4096,
        "dataset": {"nano3_packed_sft_dir": str(inputs / "packed" / "4096")},
        "train": {"train_iters": 20, "global_batch_size": 8, "micro_batch_size": 1},
        "validation": {"eval_interval": 10, "eval_iters": 2},
        "optimizer": {"lr": 3e-4, "min_lr": 3e-5, "weight_decay": 0.01},
        "scheduler": {"lr_decay_style": "cosine", "lr_warmup_iters": 2},
        "checkpoint": {"save": str(directory / "checkpoints"), "save_interval": 20},
        "rng": {"seed": 1234},
        "mixed_precision": "bf16_mixed",
    }
    for name, value in deepcopy(sections).items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, dict) else value
    return values


def finished(run: Run) -> Run:
    assert run.end["event"] == "finished", run.log()[-8000:]
    return run


def furthest_apart(one: dict[int, float], other: dict[int, float]) -> float:
    """Return the largest relative difference of losses at the same steps."""
    assert one.keys() == other.keys()
    assert one
    return max(abs(one[step] - other[step]) / abs(one[step]) for step in one)


def after(run: Run, step: int) -> dict[int, float]:
    """Return the run's losses after a step."""
    return {at: loss for at, loss in run.losses().items() if at > step}


def saving_elsewhere(values: Config, directory: Path) -> Config:
    return {**values, "checkpoint": {**values["checkpoint"], "save": str(directory)}}


def pause(run: Run) -> None:
    (run.directory / "stop.new").write_text("pause")
    (run.directory / "stop.new").rename(run.directory / "stop")


def rank_of(run: Run, launcher: int, rank: int = 0) -> psutil.Process:
    """Return the process of a rank, not its children."""
    config = str(run.directory / "config.yaml")
    return next(
        child
        for child in psutil.Process(launcher).children(recursive=True)
        if config in child.cmdline() and child.environ().get("RANK") == str(rank)
    )


def processes_of(run: Run) -> list[str]:
    """Return the command lines of a run's remaining processes: launcher and ranks name its config."""
    left = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            line = (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(run.directory / "config.yaml") in line:
            left.append(line)
    return left


def rate(run: Run, after: int = 5) -> dict[str, float]:
    """Return the median speed of a run after its first steps."""
    steps = [event for event in run.of_kind("step") if event["step"] > after]
    names = ("step_time_seconds", "tokens_per_second_per_gpu", "tflops_per_gpu")
    return {name: round(statistics.median(event[name] for event in steps), 4) for name in names}


def note(name: str, hardware: GpuHardware, run: Run, **figures: Any) -> None:
    """Leave what was seen in docs/evidence/NAME.yaml."""
    EVIDENCE.mkdir(exist_ok=True)
    seen = {
        "test": f"make test-gpu ({name})",
        "command": "torchrun --standalone --nproc-per-node GPUS -m trainer config.yaml",
        "hardware": {**vars(hardware), "versions": dict(hardware.versions)},
        "config": _without_places(yaml.safe_load((run.directory / "config.yaml").read_text())),
        "figures": figures,
    }
    (EVIDENCE / f"{name}.yaml").write_text(yaml.safe_dump(seen, sort_keys=False, width=110))


def _without_places(value: Any) -> Any:
    """Return a config without the directories of the machine."""
    if isinstance(value, dict):
        return {key: _without_places(item) for key, item in value.items()}
    return re.sub(r"^/.*/", ".../", value) if isinstance(value, str) else value
