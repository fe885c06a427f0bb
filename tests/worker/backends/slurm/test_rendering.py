"""Rendered Slurm files match the golden files and contain no text of the client."""

import subprocess
from pathlib import Path

import pytest

from tests.support.hostile import CANARY, MARKED, strings
from worker.backends.slurm.images import Image
from worker.backends.slurm.paths import Paths
from worker.backends.slurm.rendering import lead_seconds, render, render_import
from worker.clusters.profiles import SlurmCluster
from worker.clusters.secrets import Secret
from worker.runs.run import Resources, Run

GOLDEN = Path(__file__).parents[3] / "golden" / "slurm"
PATHS = Paths(Path("/lustre/sft"), "0123456789abcdef0123")
CONFIG = {"device": "cuda", "seq_length": 4096}

PLAIN = SlurmCluster(name="plain", executor="slurm", remote_job_dir=Path("/lustre/sft"), requeue=False)
FULL = SlurmCluster(
    name="full",
    executor="slurm",
    host="login.example.com",
    user="sft",
    remote_job_dir=Path("/lustre/sft"),
    account="llm",
    run_partition="interactive",
    batch_partition="batch",
    build_partition="cpu",
    qos="high",
    reservation="tuesday",
    constraint="h100&nvlink",
    comment="fine-tuning service",
    cpus_per_task=64,
    mem="0",
    exclusive=True,
    signal_seconds=600,
    container_image="nvcr.io/nvidia/nemo:26.04",
    mounts=["/lustre/models:/lustre/models"],
    python="python",
    env_vars={"NCCL_DEBUG": "WARN", "NOTE": "it's $HOME"},
    setup_lines=["module load slurm"],
    startup_commands=["ulimit -l unlimited"],
    secrets={"team-hf": Secret(env="HF")},
)
RUN = Run("job-1", 2, CONFIG, Resources(nodes=1, gpus_per_node=1, time_limit_minutes=90))
LARGE = Run(
    "job-1",
    2,
    CONFIG,
    Resources(nodes=4, gpus_per_node=8, time_limit_minutes=1500),
    secrets={"HF_TOKEN": "team-hf"},
)


@pytest.mark.parametrize(("name", "profile", "run"), [("plain", PLAIN, RUN), ("full", FULL, LARGE)])
def test_a_run_renders_to_the_golden_files(name: str, profile: SlurmCluster, run: Run) -> None:
    files = render(run, profile, PATHS).files
    assert set(files) == {"config.yaml", "job.sh", "node.sh"}
    for script in ("job.sh", "node.sh"):
        assert files[script] == (GOLDEN / name / script).read_text()
        subprocess.run(["bash", "-n"], input=files[script], text=True, check=True)


def test_an_import_renders_to_the_golden_file() -> None:
    image = Image.of(f"nvcr.io/nvidia/nemo@sha256:{'0' * 64}", PATHS)
    script = render_import(image, FULL, PATHS, fresh=False)
    assert script == (GOLDEN / "full" / "import.sh").read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_cpu_run_requests_no_gpus() -> None:
    on_cpu = Run("job-1", 1, {"device": "cpu"}, Resources(nodes=1, gpus_per_node=2, time_limit_minutes=9))
    assert "gpus-per-node" not in render(on_cpu, PLAIN, PATHS).files["job.sh"]
    assert "--nproc-per-node 2" in render(on_cpu, PLAIN, PATHS).files["node.sh"]


def test_attached_selects_the_partition() -> None:
    attached = Run("job-1", 1, CONFIG, RUN.resources, attached=True)
    assert "--partition=interactive\n" in render(attached, FULL, PATHS).files["job.sh"]
    assert "--partition=batch\n" in render(RUN, FULL, PATHS).files["job.sh"]


def test_a_short_run_is_signaled_at_half_of_its_time() -> None:
    short = Run("job-1", 1, CONFIG, Resources(nodes=1, gpus_per_node=1, time_limit_minutes=2))
    assert (lead_seconds(short, PLAIN), lead_seconds(LARGE, FULL)) == (60, 600)


@pytest.mark.parametrize("text", strings(CANARY))
def test_text_of_the_client_is_only_in_the_config(text: str) -> None:
    hostile = Run("job-1", 2, {**CONFIG, "hf_model_path": text, text: text}, RUN.resources)
    usual, files = render(RUN, PLAIN, PATHS).files, render(hostile, PLAIN, PATHS).files
    assert (files["job.sh"], files["node.sh"]) == (usual["job.sh"], usual["node.sh"])


@pytest.mark.parametrize("text", MARKED)
def test_a_profile_with_shell_metacharacters_is_rejected(text: str) -> None:
    for field in (
        "account",
        "partition",
        "qos",
        "reservation",
        "comment",
        "container_image",
        "remote_job_dir",
    ):
        with pytest.raises(ValueError, match=field):
            SlurmCluster.model_validate(
                {"name": "x", "executor": "slurm", "remote_job_dir": "/lustre/sft", field: text}
            )
