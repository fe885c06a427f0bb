"""`python -m demo DIR [--slurm]`: one real fine-tuning job through the complete service, locally or on Slurm.

Exit code 0: the job succeeded.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console
from rich.table import Table

from demo.follow import follow
from worker.settings import get_settings

console = Console(highlight=False, soft_wrap=True)

# The demo fails unless the validation loss falls by at least this share.
MIN_GAIN = 0.2
START_TIMEOUT_SECONDS = 60
ON_SLURM = {"cluster": "slurm", "resources": {"nodes": 2, "gpus_per_node": 1}}
SACCT_COLUMNS = "JobID,JobName%30,Partition,NNodes,NodeList,State,Elapsed"


def main(directory: Path, *, on_slurm: bool) -> int:
    started = time.monotonic()
    inputs = directory / "inputs" / "demo"
    _prepare(inputs)
    with _slurm(directory) if on_slurm else contextlib.nullcontext(), _service(directory) as url:
        succeeded = _run(url, directory, inputs, ON_SLURM if on_slurm else {})
    console.print(f"{time.monotonic() - started:.0f} s in total.")
    return 0 if succeeded else 1


def _run(url: str, directory: Path, inputs: Path, target: dict[str, Any]) -> bool:
    """Submit a job, follow it, and print its report. Returns whether the demo has succeeded."""
    with _client(url, directory) as client:
        job = _submit(client, inputs, target)
        console.print(f"Submitted [bold]{job['id']}[/]; its states, steps and log:")
        job = follow(client, job["id"], console)
        return _report(client, job, directory)


@contextlib.contextmanager
def _slurm(directory: Path) -> Iterator[None]:
    """Run a cluster of two nodes, and write its profile for the service."""
    from demo.slurm.cluster import DemoSlurm

    # Outside of the service's directory, which other accounts cannot enter: the daemons have their own.
    machines = directory.with_name(f"{directory.name}-machines")
    console.print(f"Starting a Slurm of two nodes in {machines}", markup=False)
    with DemoSlurm.start(machines, progress=lambda name: console.print(f"  {name}", style="dim")) as cluster:
        profile = {
            "executor": "slurm",
            "slurm_conf": cluster.conf,
            "remote_job_dir": directory / "cluster",
            "python": get_settings().trainer_python,
            "roots": f'["{directory / "inputs"}"]',
            "max_nodes": 2,
            "mem": "12G",
            "env_vars": '{GLOO_SOCKET_IFNAME = "lo"}',
        }
        lines = (f"{name} = {_toml(value)}" for name, value in profile.items())
        (directory / "clusters.toml").write_text("\n".join(["[slurm]", *lines, ""]))
        yield
        console.print(cluster.run("sacct", "--allocations", "--format", SACCT_COLUMNS).stdout, markup=False)


def _toml(value: object) -> str:
    text = str(value)
    return text if isinstance(value, int) or text[0] in "[{" else f'"{text}"'


def _prepare(inputs: Path) -> None:
    """Make records, model and packed data in the trainer's environment."""
    console.print(f"Data and model in {inputs}", markup=False)
    subprocess.run([get_settings().trainer_python, "-m", "demo.prepare", str(inputs)], check=True)


@contextlib.contextmanager
def _service(directory: Path) -> Iterator[str]:
    """Run the service as a user does; yield its URL."""
    command = [sys.executable, "-m", "cli", "serve", "--port", "0", "--data-dir", str(directory)]
    quiet = {"SFT_LOG_LEVEL": "WARNING", **os.environ}
    process = subprocess.Popen(command, env=quiet, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield _url_of(process)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def _url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        console.print(line.rstrip(), style="dim", markup=False)
        if match := re.search(r"ready at (http://\S+)", line):
            return match[1]
    raise SystemExit("The service did not start; its last lines are above.")


def _client(url: str, directory: Path) -> httpx2.Client:
    key = (directory / "admin.key").read_text().strip()
    return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


def _submit(client: httpx2.Client, inputs: Path, target: dict[str, Any]) -> dict[str, Any]:
    body = {
        "name": "demo",
        "config": "cpu-tiny",
        "overrides": [f"hf_model_path={inputs / 'model'}"],
        "inputs": {"packed_parquet": str(inputs / "packed")},
        "labels": {"purpose": "demo"},
        **target,
    }
    response = client.post("/v1/jobs", json=body)
    if response.is_error:
        raise SystemExit(f"The service rejected the job: {response.text}")
    job: dict[str, Any] = response.json()
    return job


# -- report ------------------------------------------------------------------------------------------


def _report(client: httpx2.Client, job: dict[str, Any], directory: Path) -> bool:
    """Print the job's result. Returns whether it succeeded with the required gain."""
    color = "green" if job["state"] == "SUCCEEDED" else "red"
    console.print(f"[bold {color}]{job['state']}[/]")
    if job["failure"]:
        failure, log = job["failure"], client.get(f"/v1/jobs/{job['id']}/logs", params={"tail": 30}).json()
        console.print(f"{failure['class']}: {failure['cause']}\n{failure['recovery']}", markup=False)
        console.print(log["text"], markup=False)
        return False
    gain = _print_losses(client, job["id"])
    _print_checkpoints(client, job["id"])
    _print_curl(job["id"], directory)
    if gain < MIN_GAIN:
        console.print(f"[red]The validation loss fell by {gain:.0%}; {MIN_GAIN:.0%} were expected.[/]")
    return job["state"] == "SUCCEEDED" and gain >= MIN_GAIN


def _print_losses(client: httpx2.Client, job_id: str) -> float:
    """Print the losses as a table. Returns the share by which the validation loss fell."""
    metrics = client.get(f"/v1/jobs/{job_id}/metrics").json()
    table = Table("loss", "before", "after", title="Losses")
    shares: dict[str, float] = {}
    for name in ("train", "validation"):
        first, last = metrics[name][0], metrics[name][-1]
        shares[name] = 1 - last["loss"] / first["loss"]
        table.add_row(
            name, f"{first['loss']:.3f} (step {first['step']})", f"{last['loss']:.3f} (step {last['step']})"
        )
    console.print(table)
    return shares["validation"]


def _print_checkpoints(client: httpx2.Client, job_id: str) -> None:
    items = client.get(f"/v1/jobs/{job_id}/checkpoints").json()["items"]
    table = Table("iteration", "bytes", "validation loss", title="Checkpoints")
    for item in items:
        loss = f"{item['validation_loss']:.3f}" if item["validation_loss"] is not None else ""
        table.add_row(str(item["iteration"]), f"{item['bytes']:,}", loss)
    console.print(table)
    for item in items:
        console.print(f"  {os.path.relpath(item['path'])}", markup=False)


def _print_curl(job_id: str, directory: Path) -> None:
    shown = os.path.relpath(directory)
    console.print("To inspect the job, start the service again and send requests:")
    for line in (
        f".venv/bin/sft serve --data-dir {shown} &",
        f'AUTH="Authorization: Bearer $(cat {shown}/admin.key)"',
        f'curl -sH "$AUTH" http://127.0.0.1:8000/v1/jobs/{job_id}',
        f'curl -sH "$AUTH" "http://127.0.0.1:8000/v1/jobs/{job_id}/logs?tail=20"',
        f'curl -sH "$AUTH" http://127.0.0.1:8000/v1/jobs/{job_id}/metrics',
        f'curl -sH "$AUTH" http://127.0.0.1:8000/v1/jobs/{job_id}/checkpoints',
    ):
        console.print(f"  {line}", style="cyan", markup=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--slurm", action="store_true", help="on a Slurm cluster that is started here, as root"
    )
    arguments = parser.parse_args()
    sys.exit(main(arguments.directory.absolute(), on_slurm=arguments.slurm))
