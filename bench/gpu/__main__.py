"""What training through the trainer costs on a GPU: `python -m bench.gpu DIR`, in the service's environment.

DIR holds what `python -m demo.gpu DIR` makes, in the trainer's environment: models and packed data. Compares

- `python -m trainer` with Bridge's own finetune() on the same ConfigContainer, in turns;
- saves that are waited for with those that are written meanwhile (checkpoint.async_save);
- the memory that was needed with what the plan estimates.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bench.gpu.runs import Config, Seen, config, run
from trainer.config.training_config import TrainingConfig
from trainer.preflight import Hardware, memory_of

SAVED_AT = 8
TURNS = ("trainer", "bench.gpu.bare", "trainer", "bench.gpu.bare")

console = Console()


def compare(inputs: Path, model: str, steps: int, scratch: Path, settings: list[str]) -> dict[str, Any]:
    """The trainer and Bridge alone, in turns: their medians, and the ratio of the best of each."""
    values = config(inputs, model, steps, {}, settings)
    seen: dict[str, list[Seen]] = {module: [] for module in TURNS}
    for number, module in enumerate(TURNS):
        console.print(f"{module}: {steps} steps", style="dim")
        seen[module].append(run(module, values, scratch / f"speed-{number}"))
    table = Table("", "step, ms", "tokens/s/GPU", "TFLOP/s/GPU", "to the first step, s")
    tokens = values["seq_length"] * values["train"]["global_batch_size"]
    figures = {module: [_speed(one, tokens) for one in found] for module, found in seen.items()}
    for module, found in figures.items():
        for one in found:
            table.add_row(module, *(f"{value:g}" for value in one.values()))
    console.print(table)
    best = {module: min(one["step_ms"] for one in found) for module, found in figures.items()}
    ratio = best["bench.gpu.bare"] / best["trainer"]
    console.print(f"speed of the trainer / speed of Bridge alone: {ratio:.4f}")
    return {"turns": figures, "ratio": round(ratio, 4), "memory": _memory(values, seen["trainer"][0])}


def _speed(seen: Seen, tokens: int) -> dict[str, float]:
    """tokens: of a step."""
    return {
        "step_ms": seen.step_milliseconds,
        "tokens_per_second": round(tokens / seen.step_milliseconds * 1000),
        "tflops": seen.tflops, "start_seconds": seen.start_seconds,
    }  # fmt: skip


def _memory(values: Config, seen: Seen) -> dict[str, Any]:
    """GiB: what torch reserved, and what a plan says."""
    of = memory_of(TrainingConfig.model_validate(values), Hardware(nodes=1, gpus_per_node=1))
    estimate = of.total_gib if of else None
    console.print(f"peak memory {seen.peak_memory_gib:g} GiB, estimated {estimate} GiB")
    return {"peak_gib": seen.peak_memory_gib, "estimate_gib": estimate}


def saves(inputs: Path, model: str, scratch: Path, settings: list[str]) -> dict[str, Any]:
    """How long training stands still for a save, and how long until it is whole."""
    table = Table("save", "training stands still, s", "whole after, s")
    figures = {}
    for name, in_background in (("waited for", False), ("meanwhile", True)):
        where = scratch / f"save-{in_background}"
        checkpoint = {"save": str(where / "saved"), "save_interval": SAVED_AT, "async_save": in_background}
        console.print(f"a save that is {name}", style="dim")
        seen = run("trainer", config(inputs, model, 2 * SAVED_AT, checkpoint, settings), where / "run")
        stall, whole = seen.stall_seconds(SAVED_AT), seen.save_seconds(SAVED_AT)
        table.add_row(name, f"{stall:.2f}", f"{whole:.2f}")
        figures[name] = {"stall_seconds": round(stall, 2), "whole_after_seconds": round(whole, 2)}
    console.print(table)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("inputs", type=Path, help="what `python -m demo.gpu DIR` made")
    parser.add_argument("--model", default="dense", help="directory below DIR/models")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the config")
    parser.add_argument("--only", choices=("speed", "saves"), help="this part alone")
    parser.add_argument("--output", type=Path, help="YAML file for the figures")
    wanted = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        if wanted.only != "saves":
            figures |= compare(wanted.inputs, wanted.model, wanted.steps, Path(scratch), wanted.set)
        if wanted.only != "speed":
            figures["saves"] = saves(wanted.inputs, wanted.model, Path(scratch), wanted.set)
    if wanted.output:
        wanted.output.write_text(yaml.safe_dump(figures, sort_keys=False))


if __name__ == "__main__":
    main()
