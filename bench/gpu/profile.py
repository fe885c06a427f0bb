"""Profile a step on a GPU: `python -m bench.gpu.profile DIR`, in the service's environment.

DIR is as for `python -m bench.gpu`. The trainer runs with Bridge's own switch for torch's profiler
(profiling.use_pytorch_profiler). Its trace shows how long the GPU worked, and on which kinds of kernels.
"""

import argparse
import gzip
import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from bench.gpu.runs import Config, config, run

FIRST, STEPS = 10, 3

# Kinds of kernels by name; the first match counts.
KINDS = {
    "matrix products": r"nvjet|gemm|cutlass|xmma|cublas",
    "attention": r"fmha|flash|sdpa|attention|cudnn_generated",
    "communication": r"nccl",
    "optimizer": r"adam|multi_tensor|l2norm",
    "Mamba": r"ssd|chunk|causal_conv|selective|mamba",
    "loss": r"softmax|cross_entropy|nll|log_softmax|exp_",
    "norms, activations, rotary": r"norm|swiglu|glu|silu|rope|rotary|transformer_engine|triton",
    "copies": r"memcpy|memset|copy|cat|permute|transpose",
    "sums": r"reduce|add|mul",
}
console = Console()


@dataclass(frozen=True)
class Profile:
    """Figures of a trace; times in milliseconds per step."""

    wall: float
    busy: float
    kernels: int
    """Kernels launched per step."""
    of_kind: dict[str, float]
    slowest: dict[str, float]
    """Time by the kernel's name."""


def of_trace(events: list[dict[str, Any]], steps: int) -> Profile:
    """Summarize a Chrome trace of torch's profiler over `steps` steps. Its durations are in microseconds."""
    work = sorted((event["ts"], event["dur"], event["name"]) for event in events if _is_work(event))
    busy, until = 0.0, work[0][0]
    kinds: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for begin, duration, name in work:
        busy += max(0.0, begin + duration - max(begin, until))  # streams overlap
        until = max(until, begin + duration)
        kinds[_kind(name)] += duration
        names[name[:90]] += duration
    scale = 1000 * steps
    return Profile(
        wall=(until - work[0][0]) / scale, busy=busy / scale, kernels=len(work) // steps,
        of_kind={kind: time / scale for kind, time in kinds.most_common()},
        slowest={name: time / scale for name, time in names.most_common(12)},
    )  # fmt: skip


def _is_work(event: dict[str, Any]) -> bool:
    return event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and "dur" in event


def _kind(name: str) -> str:
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE))
    return next(found, "others")


def profile(values: Config, scratch: Path) -> Profile:
    """Train with the profiler on, and read its trace."""
    values["logger"] = {**values.get("logger", {}), "tensorboard_dir": str(scratch / "tensorboard")}
    values["profiling"] = {
        "use_pytorch_profiler": True, "profile_step_start": FIRST, "profile_step_end": FIRST + STEPS,
    }  # fmt: skip
    run("trainer", values, scratch / "run")
    with gzip.open(scratch / "torch_profile" / "rank-0.json.gz") as trace:
        return of_trace(json.load(trace)["traceEvents"], STEPS)


def show(found: Profile) -> None:
    console.print(f"step: {found.wall:.1f} ms, the GPU is busy for {found.busy / found.wall:.0%} of it,")
    console.print(f"with {found.kernels} kernels")
    for title, times in (("kind", found.of_kind), ("kernel", found.slowest)):
        table = Table(title, "ms per step", "share of the GPU's busy time")
        for name, time in times.items():
            table.add_row(name, f"{time:.2f}", f"{time / found.busy:.1%}")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.profile", description=__doc__)
    parser.add_argument("inputs", type=Path, help="DIR of `python -m demo.gpu DIR`")
    parser.add_argument("--model", default="dense", help="directory below DIR/models")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override of the config"
    )
    parser.add_argument("--output", type=Path, help="YAML file for the results")
    arguments = parser.parse_args()
    values = config(arguments.inputs, arguments.model, FIRST + STEPS + 2, {}, arguments.set)
    with tempfile.TemporaryDirectory() as scratch:
        found = profile(values, Path(scratch))
    show(found)
    if arguments.output:
        arguments.output.write_text(yaml.safe_dump(vars(found), sort_keys=False))


if __name__ == "__main__":
    main()
