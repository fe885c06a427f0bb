"""One run on one GPU, and the figures from its log lines and events."""

import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import OmegaConf

from worker.settings import PROJECT_ROOT, get_settings

# A run's first steps compile and allocate.
WARM_UP_STEPS = 5
LIMIT_SECONDS = 600
LINE = re.compile(
    r"iteration +(\d+)/.*elapsed time per iteration \(ms\): ([\d.]+) .*\(TFLOP/s/GPU\): ([\d.]+) "
)
Config = dict[str, Any]

SEQ_LENGTH, GLOBAL_BATCH = 4096, 8


def config(inputs: Path, model: str, steps: int, checkpoint: Config, settings: Sequence[str] = ()) -> Config:
    """Return the config of a run on the inputs of demo/gpu.py. settings: overrides `dotted.key=value`."""
    values = {
        "hf_model_path": str(inputs / "models" / model),
        "seq_length": SEQ_LENGTH,
        "dataset": {"nano3_packed_sft_dir": str(inputs / "packed" / str(SEQ_LENGTH))},
        "train": {"train_iters": steps, "global_batch_size": GLOBAL_BATCH, "micro_batch_size": 1},
        "validation": {"eval_interval": steps, "eval_iters": 1},
        "optimizer": {"lr": 1e-4, "min_lr": 1e-5},
        "scheduler": {"lr_warmup_iters": 2},
        "checkpoint": checkpoint,
        "mixed_precision": "bf16_mixed",
    }
    merged = OmegaConf.merge(values, OmegaConf.from_dotlist(list(settings)))
    return cast("Config", OmegaConf.to_container(merged))


@dataclass(frozen=True)
class Measurement:
    """Times and events of a run."""

    start_seconds: float
    """From the launcher's start to the end of the first step."""
    step_milliseconds: float
    """Median of Bridge's log lines, like `tflops`."""
    tflops: float
    events: list[dict[str, Any]]

    @property
    def peak_memory_gib(self) -> float:
        return max(float(event["peak_memory_gib"] or 0) for event in self._of("step"))

    def stall_seconds(self, iteration: int) -> float:
        """Seconds between the end of the saved step and the begin of the next step."""
        steps = {event["step"]: event for event in self._of("step")}
        ended, following = steps[iteration], steps[iteration + 1]
        gap = datetime.fromisoformat(following["at"]) - datetime.fromisoformat(ended["at"])
        return gap.total_seconds() - float(following["step_time_seconds"])

    def save_seconds(self, iteration: int) -> float:
        """Seconds between the end of the saved step and the event of the complete checkpoint."""
        ended = next(event for event in self._of("step") if event["step"] == iteration)
        saved = next(event for event in self._of("checkpoint") if event["iteration"] == iteration)
        gap = datetime.fromisoformat(saved["at"]) - datetime.fromisoformat(ended["at"])
        return gap.total_seconds()

    def _of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


def run(module: str, config: Config, directory: Path) -> Measurement:
    """Run `module` like the local backend, and wait for its end. Raises SystemExit if it fails."""
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    log = directory / "output.log"
    command = [
        str(get_settings().trainer_python), "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", "1", "-m", module, str(directory / "config.yaml"),
    ]  # fmt: skip
    started = time.monotonic()
    with log.open("wb") as out:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    first = _first_step(process, log, started)
    if process.wait(LIMIT_SECONDS):
        raise SystemExit(f"{module} failed:\n{log.read_text()[-3000:]}")
    return _measurement(first, log, directory / "events.jsonl")


def _first_step(process: "subprocess.Popen[bytes]", log: Path, started: float) -> float:
    while process.poll() is None and not LINE.search(log.read_text(errors="replace")):
        time.sleep(0.05)
    return time.monotonic() - started


def _measurement(first: float, log: Path, events: Path) -> Measurement:
    lines = [(int(step), float(ms), float(flops)) for step, ms, flops in LINE.findall(log.read_text())]
    warm = [line for line in lines if line[0] > WARM_UP_STEPS]
    return Measurement(
        start_seconds=round(first, 1),
        step_milliseconds=statistics.median(ms for _, ms, _ in warm),
        tflops=statistics.median(flops for _, _, flops in warm),
        events=[json.loads(line) for line in events.read_text().splitlines()] if events.exists() else [],
    )
