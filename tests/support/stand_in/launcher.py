"""Simulate the trainer's interpreter: torchrun's command line, and runs that end in milliseconds.

It follows the contract of docs/job-directory.md and imports nothing of the project: an external
program, like a fake sbatch. `Mode` in control.py lists what a run can do; `with_mode` requests it.

Each start of a run appends the attempt's number to jobs/ID/attempts/N/starts, so that tests detect a double
start: `starts_of` in control.py reads them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

from tests.support.stand_in.control import Mode, mode_of
from tests.support.torch_files import BACKEND, RUN_CONFIG, index, plain

MODULE = "tests.support.stand_in.launcher"
TOTAL_STEPS = 4
OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 32.00 GiB. GPU 1 is full.\n"
PEER_IS_GONE = "RuntimeError: [gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer\n"


def now() -> str:
    return datetime.now(UTC).isoformat()


def launch(ranks: range, config: str) -> int:
    """Launch like torchrun: each rank in its own session, SIGTERM forwarded, exit code 1 for any failure."""
    if ranks[0] == 0:
        note_start(Path(config).parent)
    command = [sys.executable, "-m", MODULE, "--rank"]
    processes = [subprocess.Popen([*command, str(rank), config], start_new_session=True) for rank in ranks]
    signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in processes])
    return int(sum(process.wait() != 0 for process in processes) > 0)


def note_start(run_dir: Path) -> None:
    with (run_dir / "starts").open("a") as file:
        file.write(f"{run_dir.name}\n")


class Rank:
    def __init__(self, rank: int, config: Path) -> None:
        self.rank = rank
        self.run_dir = config.parent
        self.config = yaml.safe_load(config.read_text())
        self.mode = self.mode_of_export() if self.config.get("export") else mode_of(self.config)
        self.seq = 0

    def mode_of_export(self) -> Mode:
        try:
            return Mode((Path(self.config["export"]["checkpoint"]) / "mode").read_text().strip())
        except FileNotFoundError:
            return Mode.TRAIN

    def write(self, event: str, **fields: object) -> dict[str, object]:
        line = {
            "event": event,
            "seq": self.seq,
            "rank": self.rank,
            "at": datetime.now(UTC).isoformat(),
            **fields,
        }
        self.seq += 1
        with (self.run_dir / "events.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        os.write(1, f"SFT_EVENT {json.dumps(line)}\n".encode())
        return line

    def end(self, event: str, **fields: object) -> None:
        line = self.write(event, **fields)
        scratch = self.run_dir / ".end"
        scratch.write_text(json.dumps(line))
        scratch.rename(self.run_dir / "end.json")

    def run(self) -> int:
        (self.run_dir / "logs" / f"rank-{self.rank}.log").write_text(f"rank {self.rank} says hello\n")
        if self.mode == Mode.OOM and self.config["recipe"]["tensor_model_parallel_size"] != 2:
            return self.run_out_of_memory()
        if self.rank > 0:
            return self.follow()
        print("größe: ééé", flush=True)
        sys.stdout.buffer.write(b"bad byte \xff here\n")
        sys.stdout.buffer.flush()
        if self.mode == Mode.FORGE:
            self.forge()
        if self.mode == Mode.DIE:
            return 3
        self.write("started", start_step=0, total_steps=TOTAL_STEPS, world_size=1, global_batch_size=8,
                   seq_length=512, parameters=1000)  # fmt: skip
        if self.mode == Mode.FAIL:
            self.end(
                "failed", code="user_code", message="ValueError: failure requested", traceback="Traceback ..."
            )
            return 1
        return self.export() if self.config.get("export") else self.train()

    def export(self) -> int:
        """Write a directory with the files of a Hugging Face model."""
        source = Path(self.config["export"]["checkpoint"])
        while self.mode == Mode.HOLD:
            time.sleep(0.05)
        contents = {"config.json": b"{}", "model.safetensors": bytes(range(256)), "tokenizer.json": b"{}"}
        if self.mode == Mode.HEADLESS:
            del contents["config.json"]
        iteration = int(source.name.removeprefix("iter_"))
        path = Path(self.config["checkpoint"]["save"]) / "hf" / source.name
        self.put(path, iteration, contents, format="huggingface")
        self.end("finished", step=iteration, iteration=iteration)
        return 0

    def run_out_of_memory(self) -> int:
        lines = OUT_OF_MEMORY if self.rank == 1 else PEER_IS_GONE
        with (self.run_dir / "logs" / f"rank-{self.rank}.log").open("a") as log:
            log.write(lines)
        if self.rank == 0:
            self.end("failed", code="peer_lost", message=lines.strip(), traceback=lines)
        return 1

    def forge(self) -> None:
        size = Path("/etc/passwd").stat().st_size
        for iteration, path in ((1, Path("/etc")), (2, self.run_dir)):
            files = [{"path": "passwd", "bytes": size}]
            self.write("checkpoint", iteration=iteration, path=str(path), bytes=size, files=files)
        (self.run_dir / "passwd").symlink_to("/etc/passwd")
        (self.run_dir / "logs" / "rank-7.log").symlink_to("/etc/passwd")

    def follow(self) -> int:
        while self.mode == Mode.HOLD and not (self.run_dir / "stop").exists():
            time.sleep(0.05)
        self.talk()
        return 0

    def train(self) -> int:
        self.write("validation", step=0, loss=8.0)
        for step in range(1, TOTAL_STEPS + 1):
            self.step(step)
        while self.mode == Mode.HOLD:
            if (self.run_dir / "stop").exists():
                reason = (self.run_dir / "stop").read_text().strip()
                self.end("stopped", step=step, iteration=self.save(step), reason=reason)
                return 0
            time.sleep(0.05)
        self.talk()
        while self.mode == Mode.WAIT and not (self.run_dir / "go").exists():
            time.sleep(0.05)
        self.write("validation", step=step, loss=4.0)
        self.end("finished", step=step, iteration=self.save(step))
        return 0

    def talk(self) -> None:
        lines = 0
        while self.mode == Mode.TALK and not (self.run_dir / "go").exists():
            os.write(1, f"rank {self.rank} has printed {lines} lines\n".encode())
            lines += 1
            time.sleep(0.02)

    def step(self, step: int) -> None:
        figures = {"learning_rate": 1e-3, "grad_norm": 1.0, "step_time_seconds": 0.01, "tflops_per_gpu": None}
        self.write("step", step=step, loss=8.0 - step, consumed_samples=8 * step, **figures)

    def save(self, iteration: int) -> int:
        path = Path(self.config["checkpoint"]["save"]) / f"iter_{iteration:07d}"
        weights = bytes(range(256)) * 40
        contents = {
            ".metadata": index({"weights": ("__0_0.distcp", 0, len(weights))}), "metadata.json": BACKEND,
            "__0_0.distcp": weights, "run_config.yaml": RUN_CONFIG, "train_state.pt": plain({}),
        }  # fmt: skip
        self.put(path, iteration, contents)
        if self.mode == Mode.INCOMPLETE:
            (path / "__0_0.distcp").write_bytes(b"short")
        return iteration

    def put(self, path: Path, iteration: int, contents: dict[str, bytes], **more: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (path / name).write_bytes(content)
        files = [{"path": name, "bytes": len(content)} for name, content in contents.items()]
        total = sum(len(content) for content in contents.values())
        self.write("checkpoint", iteration=iteration, path=str(path), bytes=total, files=files, **more)


def main() -> int:
    if sys.argv[1] == "--rank":
        return Rank(int(sys.argv[2]), Path(sys.argv[3])).run()
    assert sys.argv[1:3] == ["-m", "torch.distributed.run"], sys.argv
    ranks = int(sys.argv[sys.argv.index("--nproc-per-node") + 1])
    first = ranks * (int(sys.argv[sys.argv.index("--node-rank") + 1]) if "--node-rank" in sys.argv else 0)
    assert sys.argv[-3:-1] == ["-m", "trainer"], sys.argv
    os.environ.pop("RANK", None)
    return launch(range(first, first + ranks), sys.argv[-1])


if __name__ == "__main__":
    sys.exit(main())
