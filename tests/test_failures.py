"""Real failures of the real trainer, classified from the run's directory, and over HTTP.

`make test` runs those that fail at the start; `make test-chaos` runs all of them.
"""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support.fine_tuning import fine_tuning
from tests.support.service import Service
from tests.support.trainer_runs import PROJECT, PYTHON, Run, place, start
from tests.support.waiting import wait_until
from trainer.failures import Failure
from trainer.run_layout import RunLayout
from worker.backends.access.local_files import LocalFiles
from worker.jobs.logs import tails
from worker.lifecycle.outcome import decide
from worker.runs.events import read_ending
from worker.runs.observation import ExitRecord, ObservationCode

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

Config = dict[str, Any]
GIB = 1 << 30


@pytest.fixture
def model(inputs: Path, tmp_path: Path) -> Path:
    """Return a copy of the model that the test may damage."""
    return Path(shutil.copytree(inputs / "model", tmp_path / "model"))


@pytest.fixture
def config(inputs: Path, model: Path, tmp_path: Path) -> Config:
    """Return the config of a run that saves immediately and trains until it is stopped."""
    preset: Config = yaml.safe_load((PROJECT / "trainer/config/configs/cpu-tiny.yaml").read_text())["config"]
    return {
        **preset,
        "hf_model_path": str(model),
        "dataset": {"nano3_packed_sft_dir": str(inputs / "packed")},
        "train": {**preset["train"], "train_iters": 10_000, "global_batch_size": 4},
        "validation": {"eval_interval": 5_000, "eval_iters": 1},
        "checkpoint": {"save": str(tmp_path / "checkpoints"), "save_interval": 2},
    }


def failure(run: Run, process: subprocess.Popen[bytes], ranks: int = 1) -> Failure:
    """Return the failure of a run as the service classifies it."""
    process.wait(200)
    shutil.copy(run.directory / "output.log", run.directory / "logs" / "job.log")
    marker = run.directory / "end.json"
    outcome = decide(
        marker=read_ending(marker.read_bytes()) if marker.exists() else None,
        ended=ExitRecord(
            code=ObservationCode.EXITED, message=f"The launcher exited with {process.returncode}."
        ),
        desired="run",
        checkpoint_is_complete=False,
        attempt=1,
        logs=tails(RunLayout(run.directory), ranks, LocalFiles()),
    )
    assert outcome.failure is not None, run.log()
    _check_evidence(run, outcome.failure)
    return outcome.failure


def _check_evidence(run: Run, found: Failure) -> None:
    """Check that the evidence names the position of the deciding line."""
    evidence = found.evidence
    name = "job.log" if evidence.rank is None else f"rank-{evidence.rank}.log"
    log = (run.directory / "logs" / name).read_bytes()
    assert evidence.offset is not None
    assert evidence.limit is not None
    assert evidence.line is not None
    piece = log[evidence.offset : evidence.offset + evidence.limit].decode()
    assert evidence.line.rstrip("…") in piece, (found, piece)


def steps(run: Run, process: subprocess.Popen[bytes], number: int = 1) -> None:
    wait_until(lambda: len(run.losses()) >= number or process.poll() is not None, 200, "a step")
    assert process.poll() is None, run.log()


def rank_of(run: Run, process: subprocess.Popen[bytes], rank: int) -> psutil.Process:
    """Return the process of a rank."""
    return next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == str(rank) and str(run.directory / "config.yaml") in child.cmdline()
    )


# -- failures at the start -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "failure_class"),
    [
        ({"recipe": {"tensor_model_parallel_size": 3}}, "bad_parallel_batch_shape"),
        ({"train": {"train_iters": 2, "micro_batch_size": 2}}, "bad_parallel_batch_shape"),
        ({"dataset": {"nano3_packed_sft_dir": "/nowhere"}}, "missing_packed_data"),
        ({"seq_length": 256}, "seq_length_mismatch"),
        ({"train": {"train_iters": 2, "global_batch_size": 100_000}}, "bad_parallel_batch_shape"),
        ({"checkpoint_megatron": "/nowhere"}, "bad_checkpoint"),
        ({"hf_model_path": "/nowhere"}, "bad_checkpoint"),
        ({"hf_model_path": None}, "invalid_config"),
        ({"train": {"gloabl_batch_size": 4}}, "invalid_config"),
        ({"seq_lenght": 512}, "invalid_config"),
    ],
)
def test_configs_that_the_trainer_rejects(
    config: Config, tmp_path: Path, change: Config, failure_class: str
) -> None:
    run = place(tmp_path / "run", {**config, **change})
    found = failure(run, start(run))
    assert (found.failure_class, found.retryable) == (failure_class, False)
    assert found.cause in run.end["message"]


def test_data_that_the_trainer_rejects(config: Config, inputs: Path, tmp_path: Path) -> None:
    packed = Path(shutil.copytree(inputs / "packed", tmp_path / "packed"))
    next(packed.rglob("train/*.parquet")).write_bytes(b"no parquet" * 100)
    run = place(tmp_path / "run", {**config, "dataset": {"nano3_packed_sft_dir": str(packed)}})
    found = failure(run, start(run))
    assert (found.failure_class, found.retryable) == ("missing_packed_data", False)


def test_more_than_the_hosts_memory(config: Config, model: Path, tmp_path: Path) -> None:
    described = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**described, "vocab_size": 200_000_000}))
    run = place(tmp_path / "run", config)
    limit = (20 * GIB, 20 * GIB)
    found = failure(run, start(run, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit)))
    assert (found.failure_class, found.evidence.rank) == ("oom", 0)
    assert "host" in found.cause
    assert "allocate" in str(found.evidence.line)


def test_truncated_weights_over_http(inputs: Path, data_dir: Path) -> None:
    roots = [str(inputs), str(data_dir / "inputs")]
    (data_dir / "clusters.toml").write_text(f"[local]\nroots = {json.dumps(roots)}\n")
    model = Path(shutil.copytree(inputs / "model", data_dir / "inputs/model"))
    os.truncate(model / "model.safetensors", 5000)
    body = fine_tuning(inputs, f"hf_model_path={model}")
    with Service(data_dir, SFT_TRAINER_PYTHON=str(PYTHON)) as service:
        job = service.wait_for(service.submit(body)["id"], "FAILED", timeout=300)
        evidence = job["failure"]["evidence"]
        place_ = {name: evidence[name] for name in ("attempt", "rank", "offset", "limit")}
        text = service.client.get(f"/v1/jobs/{job['id']}/logs", params=place_).json()["text"]
    assert (job["failure"]["class"], job["failure"]["retryable"]) == ("bad_checkpoint", False)
    assert "SafetensorError" in evidence["line"]
    assert evidence["line"] in text
    assert text.startswith(("Traceback", "[rank0]: Traceback"))


# -- failures during training ------------------------------------------------------------------------

later = pytest.mark.chaos


@later
@pytest.mark.parametrize(
    ("sent", "ranks", "failure_class", "retryable"),
    [
        (signal.SIGKILL, 2, "unknown", True),
        (signal.SIGSEGV, 2, "user_code", False),
        (signal.SIGTERM, 1, "preempted", True),
    ],
)
def test_a_rank_that_is_killed(
    config: Config, tmp_path: Path, sent: signal.Signals, ranks: int, failure_class: str, retryable: bool
) -> None:
    run = place(tmp_path / "run", config)
    process = start(run, ranks)
    steps(run, process)
    rank_of(run, process, ranks - 1).send_signal(sent)
    found = failure(run, process, ranks)
    assert (found.failure_class, found.retryable) == (failure_class, retryable)


@later
def test_a_port_in_use(config: Config, tmp_path: Path) -> None:
    run = place(tmp_path / "run", config)
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        where = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        environment = {**os.environ, **where, "MASTER_PORT": str(taken.getsockname()[1])}
        command = [str(PYTHON), "-m", "trainer", str(run.directory / "config.yaml")]
        with (run.directory / "output.log").open("wb") as log:
            found = failure(
                run, subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=PROJECT)
            )
    assert (found.failure_class, found.retryable) == ("node_fail", True)
    assert "EADDRINUSE" in str(found.evidence.line)


@contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    directory.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip("mounting needs the right to")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@later
def test_a_full_disk(config: Config, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = place(tmp_path / "run", {**config, "checkpoint": {"save": str(disk), "save_interval": 1}})
        found = failure(run, start(run))
    assert (found.failure_class, found.retryable) == ("disk_full", False)


def _cut_off_data(checkpoint: Path) -> None:
    for file in checkpoint.rglob("*.distcp"):
        os.truncate(file, 1000)


def _cut_off_metadata(checkpoint: Path) -> None:
    os.truncate(next(checkpoint.rglob(".metadata")), 100)


@pytest.fixture(scope="module")
def checkpoint(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a real checkpoint of the model."""
    directory = tmp_path_factory.mktemp("saved")
    preset: Config = yaml.safe_load((PROJECT / "trainer/config/configs/cpu-tiny.yaml").read_text())["config"]
    preset |= {
        "hf_model_path": str(inputs / "model"),
        "dataset": {"nano3_packed_sft_dir": str(inputs / "packed")},
        "checkpoint": {"save": str(directory / "checkpoints"), "save_interval": 1},
    }
    preset["train"] |= {"train_iters": 1}
    run = place(directory / "run", preset)
    start(run).wait(200)
    assert run.end["event"] == "finished", run.log()
    return directory / "checkpoints"


@later
@pytest.mark.parametrize("damage", [_cut_off_data, _cut_off_metadata])
def test_a_truncated_checkpoint(
    config: Config, checkpoint: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    damage(copy)
    run = place(tmp_path / "run", {**config, "checkpoint_megatron": str(copy)})
    found = failure(run, start(run))
    assert (found.failure_class, found.retryable) == ("bad_checkpoint", False)


@later
def test_the_suggestion_raises_the_time_limit(inputs: Path, data_dir: Path) -> None:
    (data_dir / "clusters.toml").write_text(f'[local]\nroots = ["{inputs}"]\n')
    body = fine_tuning(inputs, "train.train_iters=100000", "validation.eval_iters=1")
    with Service(data_dir, SFT_TRAINER_PYTHON=str(PYTHON)) as service:
        job = service.submit({**body, "resources": {"time_limit_minutes": 1}})
        job = service.wait_for(job["id"], "FAILED", timeout=400)
        assert (job["failure"]["class"], job["failure"]["retryable"]) == ("time_limit", True)
        suggested = {"field": "resources.time_limit_minutes", "from": 1, "to": 2}
        assert job["failure"]["suggestion"] == suggested
        url = f"/v1/jobs/{job['id']}"
        answer = service.client.post(f"{url}/retry", json={"apply_suggestion": True})
        assert answer.json()["resources"]["time_limit_minutes"] == 2, answer.text
        service.wait_for(job["id"], "STARTING", "RUNNING")
        run = data_dir / "jobs" / job["id"] / "attempts/2/run.json"
        assert json.loads(run.read_text())["time_limit_seconds"] == 120
        service.client.post(f"{url}/cancel")
        service.wait_for(job["id"], "CANCELLED", timeout=100)
