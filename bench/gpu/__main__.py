"""Measure the trainer's overhead on a GPU: `python -m bench.gpu DIR`, in the service's environment.

DIR holds models and packed data, made by `python -m demo.gpu DIR` in the trainer's environment. Compares

- `python -m trainer` with Bridge's own finetune() on the same ConfigContainer, alternating;
- synchronous saves with asynchronous saves (checkpoint.async_save);
- the peak memory with the plan's estimate.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bench.gpu.runs import Config, Measurement, config, run
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Hardware, memory_of

SAVED_AT = 8
ORDER = ("trainer", "bench.gpu.bare", "trainer", "bench.gpu.bare")

console = Console()


def compare(inputs: Path, model: str, steps: int, scratch: Path, settings: list[str]) -> dict[str, Any]:
    """Run the trainer and Bridge alone alternately: their medians, and the ratio of their best results."""
    values = config(inputs, model, steps, {}, settings)
    measured: dict[str, list[Measurement]] = {module: [] for module in ORDER}
    for number, module in enumerate(ORDER):
        console.print(f"{module}: {steps} steps", style="dim")
        measured[module].append(run(module, values, scratch / f"speed-{number}"))
    table = Table("", "step, ms", "tokens/s/GPU", "TFLOP/s/GPU", "to the first step, s")
    tokens = values["seq_length"] * values["train"]["global_batch_size"]
    figures = {module: [_speed(one, tokens) for one in found] for module, found in measured.items()}
    for module, found in figures.items():
        for one in found:
            table.add_row(module, *(f"{value:g}" for value in one.values()))
    console.print(table)
    best = {module: min(one["step_ms"] for one in found) for module, found in figures.items()}
    ratio = best["bench.gpu.bare"] / best["trainer"]
    console.print(f"speed of the trainer / speed of Bridge alone: {ratio:.4f}")
    return {"runs": figures, "ratio": round(ratio, 4), "memory": _memory(values, measured["trainer"][0])}


def _speed(measured: Measurement, tokens: int) -> dict[str, float]:
    """Return the figures of a run. tokens: per step."""
    return {
        "step_ms": measured.step_milliseconds,
        "tokens_per_second": round(tokens / measured.step_milliseconds * 1000),
        "tflops": measured.tflops, "start_seconds": measured.start_seconds,
    }  # fmt: skip


def _memory(values: Config, measured: Measurement) -> dict[str, Any]:
    """Return the memory reserved by torch, and the plan's estimate, in GiB."""
    memory = memory_of(TrainingConfig.model_validate(values), Hardware(nodes=1, gpus_per_node=1))
    estimate = memory.total_gib if memory else None
    console.print(f"peak memory {measured.peak_memory_gib:g} GiB, estimated {estimate} GiB")
    return {"peak_gib": measured.peak_memory_gib, "estimate_gib": estimate}


def saves(inputs: Path, model: str, scratch: Path, settings: list[str]) -> dict[str, Any]:
    """Measure how long a save stops training, and how long until the checkpoint is complete."""
    table = Table("save", "training stopped, s", "complete after, s")
    figures = {}
    for name, is_async in (("synchronous", False), ("asynchronous", True)):
        where = scratch / f"save-{is_async}"
        checkpoint = {"save": str(where / "saved"), "save_interval": SAVED_AT, "async_save": is_async}
        console.print(f"{name} save", style="dim")
        measured = run("trainer", config(inputs, model, 2 * SAVED_AT, checkpoint, settings), where / "run")
        stall, complete = measured.stall_seconds(SAVED_AT), measured.save_seconds(SAVED_AT)
        table.add_row(name, f"{stall:.2f}", f"{complete:.2f}")
        figures[name] = {"stall_seconds": round(stall, 2), "complete_after_seconds": round(complete, 2)}
    console.print(table)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("inputs", type=Path, help="DIR of `python -m demo.gpu DIR`")
    parser.add_argument("--model", default="dense", help="directory below DIR/models")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override of the config"
    )
    parser.add_argument("--only", choices=("speed", "saves"), help="measure only this part")
    parser.add_argument("--output", type=Path, help="YAML file for the results")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.only != "saves":
            figures |= compare(
                arguments.inputs, arguments.model, arguments.steps, Path(scratch), arguments.set
            )
        if arguments.only != "speed":
            figures["saves"] = saves(arguments.inputs, arguments.model, Path(scratch), arguments.set)
    if arguments.output:
        arguments.output.write_text(yaml.safe_dump(figures, sort_keys=False))


if __name__ == "__main__":
    main()
